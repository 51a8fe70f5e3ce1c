"""The types that a user's type checker sees."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from pathlib import Path
import numpy as np
from PIL import Image
import swin_dense

model = swin_dense.load(Path("a.py"), "a.pth", device="cpu")
one = model.predict("photo.jpg", score_thr=0.5)
reveal_type(one)  # swin_dense.engine.prediction.Prediction
several = model.predict([Path("a.jpg"), Image.new("RGB", (2, 2)), np.zeros((4, 5, 3), np.uint8)])
reveal_type(several)  # list[swin_dense.engine.prediction.Prediction]
reveal_type(model.predict(["a.jpg", "b.jpg"]))  # list[swin_dense.engine.prediction.Prediction]
reveal_type(one.names)  # list[str]
reveal_type(one.boxes.tolist())  # Any
reveal_type(one.draw("drawn.png"))  # PIL.Image.Image
reveal_type(model.features("photo.jpg"))  # tuple[Any, ...]
if one.masks is not None and one.label_map is None:
    one.masks.sum()
model.predict(3)  # error: No overload variant
one.masks.sum()  # error: Item "None"
swin_dense.load("a.py")  # error: Missing positional argument "checkpoint"
"""
# Other packages and what the interface does not show are left out, for speed.
CONFIG = """
[mypy]
ignore_missing_imports = True
follow_imports = silent
[mypy-torch.*,mmengine.*,mmcv.*,mmdet.*,mmseg.*,swin_dense.backbones.*,swin_dense.compat.*]
follow_imports = skip
[mypy-swin_dense.engine.predictor,swin_dense.engine.launch,swin_dense.engine.drawing]
follow_imports = skip
"""


def test_a_user_of_load(repo: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(SCRIPT)
    (tmp_path / "mypy.ini").write_text(CONFIG)
    call = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "user.py"]
    env = {**os.environ, "MYPYPATH": str(repo)}
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    out = done.stdout + done.stderr
    lines = re.findall(r"^user\.py:(\d+): (?:note: )?(.*)$", out, re.M)
    said = {int(number): text for number, text in reversed(lines)}  # the first of a line
    for number, line in enumerate(SCRIPT.splitlines(), start=1):
        _, _, wanted = line.partition("  # ")
        found = re.sub(r'^Revealed type is "(.*)"', r"\1", said.get(number, ""))
        assert found.startswith(wanted) if wanted else not found, (line, out)

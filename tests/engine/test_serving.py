"""``swin_dense.serving``: models behind HTTP, by Ray Serve."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.registry import MODELS, DefaultScope
from pycocotools import mask as coco_mask

import swin_dense
from swin_dense.datasets.shapes import ShapesSpec, write_shapes
from swin_dense.engine.config.prepare import prepare_prediction
from swin_dense.engine.prediction import Prediction
from swin_dense.errors import UserError

pytestmark = pytest.mark.skipif(not find_spec("ray"), reason="Ray Serve is not installed")
CONFIGS = Path(__file__).resolve().parents[1] / "tools"
CLASSES = {
    "detector": ("circle", "square", "triangle", "star"),
    "segmentor": ("background", "circle", "square", "triangle", "star"),
}
# Of its own, even if the machine runs another; no figures about the use of Ray leave it.
RAY = {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
SECONDS = 180  # to start: many times what a machine needs that has nothing else to do


def make_model(kind: str, folder: Path) -> tuple[Path, Path]:
    """Config and checkpoint of a tiny model."""
    config, checkpoint = CONFIGS / f"tiny_{kind}.py", folder / f"{kind}.pth"
    cfg = prepare_prediction(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    meta = {"dataset_meta": {"classes": CLASSES[kind]}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, checkpoint)
    return config, checkpoint


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> tuple[Path, Path]:
    torch.manual_seed(3)
    return make_model("detector", tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def url(detector) -> Iterator[str]:
    """Where the detector answers: `serve run` of a configuration file, in another process."""
    config, checkpoint = map(str, detector)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    application = {
        "name": "detector",
        "route_prefix": "/",
        "import_path": "swin_dense.serving:app",
        "args": {"config": config, "checkpoint": checkpoint, "score_thr": 0.0, "batch_size": 2},
    }
    http = {"host": "127.0.0.1", "port": port}
    file, log = detector[1].with_suffix(".yaml"), detector[1].with_suffix(".log")
    file.write_text(yaml.safe_dump({"http_options": http, "applications": [application]}))
    command = [sys.executable, "-c", "from ray.serve.scripts import cli; cli()", "run", str(file)]
    with tempfile.TemporaryDirectory(prefix="ray") as folder, log.open("wb") as output:
        env = os.environ | RAY | {"RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(
            command, env=env, stdout=output, stderr=output, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(60)
            with contextlib.suppress(ProcessLookupError):  # what is left of Ray's processes
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            if request(url)[0] == 405:
                return
        except (OSError, ValueError):  # nobody listens yet, or Ray answers that it has no model
            pass
        time.sleep(0.2)
    pytest.fail(f"the model is not served:\n{log.read_text(errors='replace')[-4000:]}")


def request(url: str, body: bytes | None = None) -> tuple[int, dict]:
    """Status and answer of a POST, without a body of a GET."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def assert_same(answer: dict, expected: Prediction) -> None:
    """Rounding apart, and what a batch padded to one size changes."""
    assert (answer["task"], answer["classes"]) == ("detection", list(expected.classes))
    assert (answer["bbox_format"], answer["bbox_unit"]) == ("xyxy", "pixels")
    assert (answer["height"], answer["width"]) == expected.image.shape[:2]
    found = answer["instances"]
    assert len(found) == len(expected) > 0
    assert [one["class"] for one in found] == expected.names
    assert [one["label"] for one in found] == expected.labels.tolist()
    np.testing.assert_allclose([one["score"] for one in found], expected.scores, atol=1e-3)
    np.testing.assert_allclose([one["bbox"] for one in found], expected.boxes, atol=0.05)
    masks = np.stack([coco_mask.decode(one["mask"]) for one in found])
    assert (masks != expected.masks).mean() < 1e-3


def test_detections_over_http(url, detector, tmp_path):
    """Four requests at a time, in batches of two; what is no image does not disturb the others."""
    write_shapes(tmp_path, ShapesSpec(train=1, val=3, size=64))
    images = sorted((tmp_path / "val2017").glob("*.jpg"))
    thin = cv2.imencode(".png", np.zeros((1, 3000, 3), np.uint8))[1].tobytes()
    bodies = [*(image.read_bytes() for image in images), thin, images[0].read_bytes()[:500], b"?"]
    with ThreadPoolExecutor(len(bodies)) as threads:
        answers = list(threads.map(lambda body: request(url, body), bodies))
    assert [status for status, _ in answers] == [200, 200, 200, 400, 400, 400]
    model = swin_dense.load(*detector, device="cpu")
    for image, (_, answer) in zip(images, answers[:3], strict=True):
        assert_same(answer, model.predict(image, score_thr=0.0))
    thin, cut, none = (answer["error"] for _, answer in answers[3:])
    assert "cannot be resized from 3000 x 1" in thin
    assert cut.startswith("no image that can be read: damaged or cut off")
    assert none.startswith("no image that can be read: not an image")
    status, answer = request(url)
    assert status == 405
    assert "POST the bytes of an image file" in answer["error"]


def test_answer_with_a_label_map(tmp_path, repo):
    from swin_dense.serving import to_json

    model = swin_dense.load(*make_model("segmentor", tmp_path), device="cpu")
    found = model.predict(repo / "docs" / "demo.jpg")
    answer = json.loads(json.dumps(to_json(found)))
    assert (answer["task"], answer["classes"]) == ("segmentation", list(model.classes))
    assert (answer["height"], answer["width"]) == found.label_map.shape
    png = np.frombuffer(base64.b64decode(answer["label_map"]), np.uint8)
    assert (cv2.imdecode(png, cv2.IMREAD_UNCHANGED) == found.label_map).all()
    assert sum(area["pixels"] for area in answer["areas"]) == found.label_map.size


def test_missing_files_are_named_before_ray_starts(detector, tmp_path):
    from swin_dense.serving import Arguments, app

    config, checkpoint = map(str, detector)
    with pytest.raises(UserError, match="no such config: "):
        app(Arguments(config=str(tmp_path / "none.py"), checkpoint=checkpoint))
    with pytest.raises(UserError, match=r"no such checkpoint: none\.pth"):
        app(Arguments(config=config, checkpoint="none.pth"))
    with pytest.raises(ValueError, match="score_treshold"):
        Arguments(config=config, checkpoint=checkpoint, score_treshold=0.5)

"""mmengine's checkpoints can be read, and code in them is not executed."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from swin_dense.checkpoints import load_checkpoint
from swin_dense.errors import UserError
from swin_dense.ops.torch_versions import VERSION

pytestmark = pytest.mark.usefixtures("reader")


class Tiny(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor, mode: str = "tensor") -> Any:
        loss = self.layer(x).square().mean()
        return {"loss": loss} if mode == "loss" else loss


def tiny_runner(work_dir: Path, epochs: int, resume: bool = False) -> Runner:
    model = Tiny()
    data = torch.utils.data.TensorDataset(torch.arange(8.0).view(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=torch.utils.data.DataLoader(data, batch_size=2),
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper=OptimWrapper(optimizer),
        param_scheduler={"type": "LinearLR", "start_factor": 0.1, "by_epoch": True, "end": 2},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        resume=resume,
        experiment_name=f"tiny_{work_dir.name}_{epochs}",
        log_level="ERROR",
    )


def test_runner_resumes_from_its_own_checkpoint(tmp_path: Path) -> None:
    first = tiny_runner(tmp_path, epochs=1)
    first.message_hub.update_info("best", np.float64(0.25))
    first.train()
    saved = load_checkpoint(tmp_path / "epoch_1.pth")
    losses = saved["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(losses, HistoryBuffer)
    assert losses.mean() == pytest.approx(losses.data[0].mean())
    assert {"state_dict", "optimizer", "param_schedulers", "meta"} <= saved.keys()

    second = tiny_runner(tmp_path, epochs=2, resume=True)
    second.train()
    assert second.epoch == 2
    assert second.message_hub.get_info("best") == 0.25
    # Losses of both epochs: the history was restored.
    assert len(second.message_hub.get_scalar("train/loss").data[0]) == 4


def test_numpy_values_in_old_and_new_checkpoints(tmp_path: Path) -> None:
    meta = {
        "best_bbox_mAP": np.float64(0.4),
        "half": np.float16(1.5),
        "iter": np.int64(7),
        "flag": np.bool_(True),
        "name": np.str_("swin"),
        "palette": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "CLASSES": ("a", "b"),
    }
    path = tmp_path / "old.pth"
    content = {"meta": meta, "state_dict": OrderedDict(w=torch.ones(2))}
    for legacy in (False, True):
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        read = load_checkpoint(path)
        assert read["meta"]["palette"].tolist() == [[0, 1, 2], [3, 4, 5]]
        for key in meta.keys() - {"palette"}:
            assert read["meta"][key] == meta[key]
            assert type(read["meta"][key]) is type(meta[key])


@pytest.mark.parametrize("package", ["numpy.core", "numpy._core"])
def test_both_numpy_package_names(tmp_path: Path, package: str) -> None:
    path = tmp_path / "scalar.pth"
    torch.save({"map": np.float64(0.5)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    written = next(p for p in (b"numpy._core", b"numpy.core") if p + b".multiarray" in data)
    path.write_bytes(data.replace(written, package.encode()))
    assert load_checkpoint(path) == {"map": 0.5}


class Payload:
    """Calls a function when it is unpickled by Python's own unpickler."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def payload(kind: str, mark: Path) -> Payload:
    return {
        "os.system": Payload(os.system, f"touch {mark}"),
        "eval": Payload(eval, f"open({str(mark)!r}, 'w')"),
        "getattr": Payload(getattr, HistoryBuffer, "__init__"),
        "getattr of another": Payload(getattr, dict, "min"),
    }[kind]


@pytest.mark.parametrize("kind", ["os.system", "eval", "getattr", "getattr of another"])
@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_pickle_raises(tmp_path: Path, kind: str, legacy: bool) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.pth"
    content = {"state_dict": {}, "meta": payload(kind, mark)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"evil\.pth asks for .*malicious"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="malicious"):
        CheckpointLoader.load_checkpoint(str(path), map_location="cpu")
    for name in ("load_from_local", "_safe_torch_load"):  # the second in the forks only
        if load := getattr(mmengine_checkpoint, name, None):
            with pytest.raises(UserError, match="malicious"):
                load(str(path), map_location="cpu")
    if VERSION >= (2, 6):
        with pytest.raises(pickle.UnpicklingError):
            torch.load(path)
    assert not mark.exists()


def test_malicious_download_raises(tmp_path: Path, web_folder: tuple[Path, str]) -> None:
    folder, url = web_folder
    mark = tmp_path / "mark"
    torch.save({"state_dict": {}, "meta": payload("eval", mark)}, folder / "evil.pth")
    torch.save({"meta": {"map": np.float64(0.5)}}, folder / "good.pth")
    with pytest.raises(UserError, match="malicious"):
        CheckpointLoader.load_checkpoint(f"{url}/evil.pth", map_location="cpu")
    assert not mark.exists()
    good = CheckpointLoader.load_checkpoint(f"{url}/good.pth", map_location="cpu")
    assert good == {"meta": {"map": 0.5}}


def test_payload_runs_without_protection(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(payload("os.system", mark)))
    assert mark.exists()


def test_history_buffer_works_after_loading(tmp_path: Path) -> None:
    hub = MessageHub.get_instance("statistics")
    for value in (1.0, 2.0, 6.0):
        hub.update_scalar("train/loss", value)
    path = tmp_path / "hub.pth"
    torch.save({"message_hub": hub.state_dict()}, path)
    history = load_checkpoint(path)["message_hub"]["log_scalars"]["train/loss"]
    assert [history.statistics(name) for name in ("min", "max", "current", "mean")] == [1, 6, 6, 3]

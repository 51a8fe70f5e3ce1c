"""``--strategy fsdp`` on two CPU processes: the same training as DDP's, with half of the state."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from swin_dense.engine import sharding
from swin_dense.errors import UserError

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    sharding.REASON_WITHOUT is not None, reason=f"fully_shard {sharding.REASON_WITHOUT}"
)


@pytest.fixture(scope="module")
def runs(python, shapes_root, tmp_path_factory) -> SimpleNamespace:
    """Trainings by sharded_processes.py: its folder, and what each process found."""
    out = tmp_path_factory.mktemp("sharded")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    python(*torchrun, str(HERE / "sharded_processes.py"), str(shapes_root), str(out))
    found = [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return SimpleNamespace(out=out, first=found[0], all=found)


def checkpoint(path: Path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("ddp", "fsdp"),
    [
        ("ddp/iter_4.pth", "fsdp/iter_4.pth"),
        ("ddp/iter_4.pth", "resumed/iter_4.pth"),
        ("bf16_ddp/epoch_1.pth", "bf16_fsdp/epoch_1.pth"),
    ],
)
def test_checkpoints_are_those_of_ddp(runs, ddp, fsdp):
    """Weights and optimizer states: whole, in the same order, and equal; also when resumed."""
    expected, found = (checkpoint(runs.out / path) for path in (ddp, fsdp))
    assert list(found["state_dict"]) == list(expected["state_dict"])
    assert all(type(value) is torch.Tensor for value in found["state_dict"].values())
    for part in ("state_dict", "optimizer"):
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=1e-5)
    assert found["optimizer"]["state"]
    assert found["meta"]["precision"] == expected["meta"]["precision"]


@pytest.mark.parametrize(("ddp", "fsdp"), [("ddp", "fsdp"), ("bf16_ddp", "bf16_fsdp")])
def test_steps_are_those_of_ddp(runs, ddp, fsdp):
    """Losses, clipped norms, which parameters decay, and who computes the blocks."""
    ddp, fsdp = runs.first[ddp], runs.first[fsdp]
    for logged in ("losses", "norms"):
        assert fsdp[logged] == pytest.approx(ddp[logged], abs=1e-5)
    assert fsdp["losses"]
    assert max(fsdp["norms"]) > 0.5, "gradients are clipped"
    assert fsdp["decays"] == ddp["decays"]
    assert {0.0, 0.5} == set(fsdp["decays"])
    assert fsdp["fused"] == ddp["fused"] == [True] * len(ddp["fused"])


def test_each_process_has_its_share(runs):
    """Rows of each parameter are dealt out; the optimizer has two numbers for each parameter."""
    for name in ("fsdp", "bf16_fsdp"):
        shares = [found[name] for found in runs.all]
        whole = runs.first[name.replace("fsdp", "ddp")]
        assert sum(share["parameters"] for share in shares) == whole["parameters"]
        for share in shares:
            assert share["states"] == 2 * share["parameters"]
        rows_of_first = [(-(-rows // 2), *rest) for rows, *rest in whole["shapes"]]
        assert shares[0]["parameters"] == sum(map(math.prod, rows_of_first))


def test_a_test_reads_the_checkpoint(runs, tool, shapes_root, tmp_path):
    flags = ["--data-root", shapes_root, "--work-dir", tmp_path]
    assert tool("test", HERE / "tiny_segmentor.py", runs.out / "fsdp" / "last.pth", *flags) == 0


def test_single_numbers_cannot_be_shared():
    model = nn.Sequential(nn.Linear(2, 2))
    model.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UserError, match="cannot share scale, a single number"):
        sharding.shard(model)

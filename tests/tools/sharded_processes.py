"""For test_sharding.py, run by torchrun: the same trainings with and without sharding."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from torch import Tensor
from torch.distributed.tensor import DTensor

from swin_dense.backbones.swin import SwinBlock
from swin_dense.engine.runner import Runner
from swin_dense.engine.train import train

HERE = Path(__file__).parent
OPTIONS = {
    "model.backbone.with_cp": True,
    "optim_wrapper.optimizer.weight_decay": 0.5,
    "optim_wrapper.paramwise_cfg.norm_decay_mult": 0.0,
    "optim_wrapper.clip_grad.max_norm": 0.5,
    "log_processor.window_size": 1,
}
# Nothing is drawn in forward, so that a resumed run is what one without interruption is.
OF_SEGMENTOR = {
    # The norm that clips is a sum over shards, which rounds differently. Behind the batch norm of
    # two pooled pixels there is hardly any gradient: AdamW, whose steps have one size, would make
    # much of that.
    "optim_wrapper.optimizer.eps": 1e-4,
    "model.backbone.drop_path_rate": 0.0,
    "model.decode_head.dropout_ratio": 0.0,
    "model.auxiliary_head.dropout_ratio": 0.0,
    "default_hooks.checkpoint.interval": 2,
    "train_cfg.val_interval": 2,  # in between, which gathers weights too
}


def main(data_root: str, out: Path) -> None:
    """Trains, and writes what each process found to ``out``."""

    def run(name: str, kind: str, **settings: Any) -> Runner:
        return train(
            HERE / f"tiny_{kind}.py",
            data_root=data_root,
            work_dir=out / name,
            from_scratch=True,
            cfg_options=OPTIONS | (OF_SEGMENTOR if kind == "segmentor" else {}),
            launcher="pytorch",
            device="cpu",
            seed=0,
            report=False,
            **settings,
        )

    runs = {
        "ddp": run("ddp", "segmentor"),
        "fsdp": run("fsdp", "segmentor", strategy="fsdp"),
        "bf16_ddp": run("bf16_ddp", "detector", amp="bf16"),
        "bf16_fsdp": run("bf16_fsdp", "detector", amp="bf16", strategy="fsdp"),
    }
    resume = str(out / "ddp" / "iter_2.pth")
    runs["resumed"] = run("resumed", "segmentor", strategy="fsdp", resume=resume)
    found = {name: describe(runner) for name, runner in runs.items()}
    (out / f"rank{get_rank()}.json").write_text(json.dumps(found))


def describe(runner: Runner) -> dict[str, Any]:
    """What a process holds after a training, and what the first one logged."""
    optimizer = runner.optim_wrapper.optimizer
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = [v for state in optimizer.state.values() for v in state.values() if v.ndim]
    file = Path(runner.log_dir, "vis_data", "scalars.json")
    lines = file.read_text().splitlines() if get_rank() == 0 else []
    steps = [record for record in map(json.loads, lines) if "loss" in record]
    return {
        "shapes": [list(p.shape) for p in parameters],
        "parameters": count(parameters),
        "states": count(states),
        "decays": [g["weight_decay"] for g in optimizer.param_groups for _ in g["params"]],
        "fused": [is_fused(m) for m in runner.model.modules() if isinstance(m, SwinBlock)],
        "losses": [step["loss"] for step in steps],
        "norms": [step["grad_norm"] for step in steps],
    }


def count(tensors: Iterable[Tensor]) -> int:
    """How many numbers this process holds of these tensors."""
    return sum((t.to_local() if isinstance(t, DTensor) else t).numel() for t in tensors)


def is_fused(block: Any) -> bool:
    """Whether our functions compute a block."""
    if hasattr(block, "unshard"):
        block.unshard()
    x = torch.zeros(1, 4, 4, block.norm1.normalized_shape[0])
    return block.ops.current(block, x) is not None


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

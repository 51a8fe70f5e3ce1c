"""Fully sharded training (``--strategy fsdp``): PyTorch's FSDP2, ``fully_shard``, in our runner.

Each process keeps its share of every parameter, its gradient and the optimizer's state of it. A
block's weights are gathered from all processes while it computes, forward or backward; those
outside of blocks form one more group, gathered during the whole step. Checkpoints are whole: they
do not tell how they were trained.

Source: https://arxiv.org/abs/2304.11277.
"""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from torch import Tensor, nn

from swin_dense.backbones import deit, swin
from swin_dense.engine.precision import precision_of
from swin_dense.errors import UserError
from swin_dense.ops.dispatch import AttnImpl
from swin_dense.ops.torch_versions import too_old

# On CPUs 2.6 fails, and 2.8 logs wrong norms of gradients; those in between were not tried.
REASON_WITHOUT = too_old(2, 11)
if REASON_WITHOUT is None:
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.distributed.tensor import DTensor, distribute_tensor

_BLOCKS = (swin.SwinBlock, deit.Block)


def use_sharding(cfg: Config) -> None:
    """Lets the runner shard the model, for ``--strategy fsdp``.

    Raises:
        UserError: something in the config does not work with it.
    """
    hooks = {str(hook.get("type")).rpartition(".")[2] for hook in cfg.get("custom_hooks") or []}
    reasons = {
        str(REASON_WITHOUT): REASON_WITHOUT is not None,
        "shares a model among processes: start them with torchrun or srun and give --launcher": (
            cfg.launcher == "none"
        ),
        "does not scale losses: use --amp bf16 or fp32": precision_of(cfg) == "fp16",
        "does not go with --compile: remove one of them": bool(cfg.get("compile_backbone")),
        "does not go with EMAHook, which copies the model: remove it": "EMAHook" in hooks,
        "works with our runner only: remove runner_type": "runner_type" in cfg,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(f"--strategy fsdp {reason}")
    cfg.fsdp = True


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` was called for the model."""
    return REASON_WITHOUT is None and isinstance(model, FSDPModule)


def shard(model: nn.Module) -> None:
    """Shards a model in place, among all processes.

    Names of parameters stay. ``state_dict`` of the model, and of optimizers after
    :func:`keep_state_whole`, is whole on the first process: all have to call it. Whole ones are
    loaded, of which that of the first process counts.

    Raises:
        UserError: the model has a parameter that cannot be shared.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise UserError(
                f"--strategy fsdp cannot share {name}, a single number: train this model without it"
            )
    on_gpu = next(model.parameters()).is_cuda
    for part in list(model.modules()):
        # 'auto' measures copies of a block, and what is sharded cannot be copied.
        if on_gpu and getattr(part, "attn_impl", None) == AttnImpl("auto"):
            part.attn_impl = AttnImpl("sdpa")  # type: ignore[assignment]
        if isinstance(part, _BLOCKS):
            fully_shard(part)
    fully_shard(model)
    model.register_state_dict_post_hook(_gather_parameters)
    model.register_load_state_dict_pre_hook(_share_parameters)


def keep_state_whole(optimizer: torch.optim.Optimizer) -> None:
    """Lets the optimizer of a sharded model save and load its state as that of a whole model."""
    optimizer.register_state_dict_post_hook(_gather_state)
    optimizer.register_load_state_dict_pre_hook(_share_state)


def _gather(value: Any) -> Any:
    """The whole tensor, on the first process and on the CPU; the others keep their share."""
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return value if get_rank() else whole.cpu()


def _share(value: Any, like: Tensor) -> Any:
    """This process's share of a tensor, if it is for one that is sharded."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements)


def _gather_parameters(model: nn.Module, state: dict[str, Any], *_: object) -> None:
    for name in state:
        state[name] = _gather(state[name])


def _share_parameters(model: nn.Module, state: dict[str, Any], *_: object) -> None:
    for name, parameter in model.named_parameters():  # in the same order on all processes
        if name in state:
            state[name] = _share(state[name], parameter)


def _gather_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    of_parameters = {
        index: {name: _gather(value) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return state | {"state": of_parameters}


def _share_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    of_parameters = {
        index: {
            name: _share(value, parameters[index]) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    return state | {"state": of_parameters}

"""What a checkpoint says of its training besides weights, so that this can go on exactly.

Generators of random numbers have no part in it: each step seeds them, see
:mod:`swin_dense.engine.loops`.
"""

import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather, all_gather_object, get_rank, get_world_size
from mmengine.hooks import EarlyStoppingHook

from swin_dense.checkpoints.files import load_without_weights
from swin_dense.config_tree import mappings
from swin_dense.engine.loops import EpochLoop, IterationLoop
from swin_dense.engine.sharding import is_sharded
from swin_dense.engine.terminal.console import notify_user
from swin_dense.engine.terminal.hooks import is_epoch_based
from swin_dense.engine.weights import without_wrappers

# Parts of mmdet that remember images or sizes, of which a checkpoint has nothing.
_WITH_MEMORY = {"CachedMosaic", "CachedMixUp", "BatchSyncRandomResize", "CustomSampleSizeSampler"}
_IN_WORDS = {
    "by_epoch": "training by epochs",
    "processes": "processes",
    "batch_size": "images per process",
    "images": "images in the data set",
}


def state_of_training(runner: Any, epoch: int) -> dict[str, Any]:
    """The entries of ``meta`` in a checkpoint that is saved now; all processes have to call it.

    Args:
        runner: of the training, after a step or an epoch.
        epoch: that of the checkpoint: how many are complete.
    """
    loop = runner.train_loop
    if not isinstance(loop, (EpochLoop, IterationLoop)):
        return {}
    state = {
        **_circumstances(loop),
        # Hooks that are called at the end of an epoch save it as complete; the loop counts later.
        "batches": loop.batches if epoch == runner.epoch else 0,
        "early_stopping": [[h.best_score, h.wait_count] for h in _early_stopping(runner)],
        "gradients": _unused_gradients(runner),
    }
    return {"training": state}


def restore_training(runner: Any, checkpoint: Mapping[str, Any], name: str) -> None:
    """Continues what :func:`state_of_training` says; tells the user if that is not exact."""
    loop, meta = runner.train_loop, checkpoint["meta"]
    state = meta.get("training")
    if not isinstance(loop, (EpochLoop, IterationLoop)):
        changed = [f"{type(loop).__name__} is not a loop of mmengine"]
    elif state is None:
        changed = [f"{name} does not tell how its training drew random numbers"]
    else:
        changed = _restore(runner, loop, state)
        steps = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        if not state["gradients"] and meta["iter"] % steps:
            changed.append("gradients that were being added up are not saved")
        kinds = {str(one.get("type")).rpartition(".")[2] for one in mappings(runner.cfg._cfg_dict)}
        changed += [f"what {kind} keeps is not saved" for kind in sorted(kinds & _WITH_MEMORY)]
    if changed:
        notify_user(f"resuming is not exact: {'; '.join(changed)}")


def progress_in_words(runner: Any, checkpoint: Mapping[str, Any]) -> str:
    """How much of a training is done in a checkpoint that is resumed, and whether it is all."""
    meta, by_epoch = checkpoint["meta"], is_epoch_based(runner)
    steps = f"{meta['iter']} of {runner.max_iters} iterations"
    if not by_epoch:
        text, is_complete = steps, meta["iter"] >= runner.max_iters
    else:
        text = f"{meta['epoch']} of {runner.max_epochs} epochs, {steps}"
        is_complete = meta["epoch"] >= runner.max_epochs
    if not is_complete:
        return f"{text} are done"
    return (
        f"{text} are done, the training is complete: it is only evaluated again (to train longer, "
        f"raise --epochs, or train_cfg.max_{'epochs' if by_epoch else 'iters'})"
    )


def _restore(runner: Any, loop: EpochLoop | IterationLoop, state: dict[str, Any]) -> list[str]:
    """Continues a training; returns what has changed since, in words."""
    for hook, saved in zip(_early_stopping(runner), state["early_stopping"], strict=False):
        hook.best_score, hook.wait_count = float(saved[0]), int(saved[1])
    now = _circumstances(loop)
    changed = [
        f"{words} were {state[key]}, are {now[key]}"
        for key, words in _IN_WORDS.items()
        if state[key] != now[key]
    ]
    done = operator.index(state["batches"])
    if not changed:
        loop.batches = done
        _restore_gradients(runner, state["gradients"])
    elif now["by_epoch"] and done:  # the place means nothing in other batches
        changed.append("the epoch starts anew")
    return changed


def trained_seed(checkpoint: str | Path) -> int | None:
    """The seed of the training that wrote a checkpoint; None if it does not tell."""
    try:
        seed = load_without_weights(checkpoint)["meta"]["seed"]
    except Exception:  # almost any, for arbitrary bytes; loading it reports the error
        return None
    return seed if isinstance(seed, int) else None


def _circumstances(loop: EpochLoop | IterationLoop) -> dict[str, Any]:
    """What decides which images are in a batch, besides the config."""
    return {
        "by_epoch": isinstance(loop, EpochLoop),
        "processes": get_world_size(),
        "batch_size": loop.dataloader.batch_sampler.batch_size,
        "images": len(loop.dataloader.dataset),
    }


def _early_stopping(runner: Any) -> Iterator[EarlyStoppingHook]:
    return (hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook))


def _unused_gradients(runner: Any) -> list[dict[str, torch.Tensor]] | None:
    """Of each process, gradients that are being added up for a step that is still to come."""
    if getattr(runner.optim_wrapper, "_accumulative_counts", 1) == 1 or is_sharded(runner.model):
        return None
    parameters = dict(without_wrappers(runner.model).named_parameters())
    own = [name for name, parameter in parameters.items() if parameter.grad is not None]
    names = all_gather_object(own)
    if not any(names):
        return None
    shares: list[dict[str, torch.Tensor]] = [{} for _ in names]
    for name in sorted(set().union(*names)):
        grad = parameters[name].grad
        grad = torch.zeros_like(parameters[name]) if grad is None else grad.contiguous()
        for share, present, one in zip(shares, names, all_gather(grad), strict=True):
            if name in present and get_rank() == 0:
                share[name] = one.detach().cpu()
    return shares


def _restore_gradients(runner: Any, shares: list[dict[str, torch.Tensor]] | None) -> None:
    parameters = dict(without_wrappers(runner.model).named_parameters())
    for name, grad in (shares[get_rank()] if shares else {}).items():
        parameters[name].grad = grad.to(parameters[name].device)

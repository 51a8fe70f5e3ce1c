"""Schedulers of a config, fitted to the length of the training.

A schedule is written for a number of epochs or iterations: where its last scheduler ends. In a
training of that length it stays as it is, in any other all its places move in proportion, so that
milestones of 8 and 11 in 12 epochs are 24 and 33 in 36. A warm-up that counts steps never takes
more than a tenth of them: recipes for COCO have 500, more than small data have steps.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.runner import EpochBasedTrainLoop

_LONGEST_WARM_UP = 10  # a part of all steps: one in so many
# Schedulers whose places can be counted in iterations, unlike the factor of exponential decay.
_WARM_UPS = {"Linear", "Constant", "QuadraticWarmup"}
_FITTED = {"MultiStep", "Step", "CosineAnnealing", "Poly", "OneCycle", *_WARM_UPS}
_PLACES = ("begin", "end", "milestones")
_DURATIONS = ("T_max", "step_size", "total_steps")


def fit_schedule(schedulers: Any, loop: Any) -> tuple[Any, str]:
    """Fits the configs of parameter schedulers to a training loop.

    Args:
        schedulers: one config, or a list of them; others (built ones, those of several optimizers)
            are returned as they are.
        loop: of the training, which tells its length and that of an epoch.

    Returns:
        The configs, and what changed in words, "" if nothing did.
    """
    configs = [schedulers] if isinstance(schedulers, Mapping) else schedulers
    if not isinstance(configs, Sequence) or not all(map(_is_config, configs)):
        return schedulers, ""
    fitting = _Fitting(configs, loop)
    fitted = [fitting.fit(one) for one in configs]
    words = f"fitted to this run: {'; '.join(fitting.changes)}"
    words += " (fit_schedule=False keeps the config's)"
    return fitted, words if fitting.changes else ""


def places_of(schedulers: Any) -> list[list[Any]]:
    """Where built schedulers begin, end and change, to tell whether a checkpoint has others."""
    names = ("by_epoch", "begin", "end", "milestones", "T_max", "step_size", "total_iters")
    built = schedulers if isinstance(schedulers, list) else []
    return [[getattr(one, name, None) for name in names] for one in built]


class _Fitting:
    """How one training stretches or shrinks the schedulers of its config."""

    def __init__(self, configs: Sequence[Mapping[str, Any]], loop: Any) -> None:
        self._by_epoch = isinstance(loop, EpochBasedTrainLoop)
        self._steps, self._epoch = loop.max_iters, max(len(loop.dataloader), 1)
        length = loop.max_epochs if self._by_epoch else loop.max_iters
        ends = [_end(one) for one in configs if self._is_timed_by_run(one) and not is_warm_up(one)]
        self._written_for = max(filter(None, ends), default=None)
        self._factor = length / (self._written_for or length)
        warm_ups = [one for one in configs if is_warm_up(one)]
        self._warmed_up = {self._written(one, "end"): self._warm_up(one) for one in warm_ups}
        self.changes: list[str] = []

    def fit(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config in iterations, if some of its places are to move; else as it is."""
        keys = [key for key in (*_PLACES, *_DURATIONS) if config.get(key) is not None]
        old = {key: self._written(config, key) for key in keys}
        new = {key: self._fitted(config, key) for key in keys}
        if _name(config) not in _FITTED or new == old:
            return config
        self._tell(config, old, new)
        kept = {key: value for key, value in config.items() if key != "convert_to_iter_based"}
        return {**kept, **new, "by_epoch": False}

    def _written(self, config: Mapping[str, Any], key: str) -> Any:
        """A place or duration as the config has it, in iterations."""
        unit = self._epoch if config.get("by_epoch", True) else 1
        value = config.get(key, 0)
        return [one * unit for one in value] if key == "milestones" else value * unit

    def _fitted(self, config: Mapping[str, Any], key: str) -> Any:
        """The same in this training."""
        written, begin = self._written(config, key), self._written(config, "begin")
        factor = self._factor if self._is_timed_by_run(config) else 1
        if key == "milestones":
            return [round(one * factor) for one in written]
        if key == "begin" or (key == "end" and is_warm_up(config)):
            return self._warmed_up.get(written, round(written * factor))
        if key == "T_max":  # what is left after a warm-up
            start = self._warmed_up.get(begin, round(begin * factor))
            return max(round((begin + written) * factor) - start, 1)
        return max(round(written * factor), 1)

    def _warm_up(self, config: Mapping[str, Any]) -> int:
        """Where a warm-up ends in this training."""
        # mmengine's LinearLR of a single step never leaves its start.
        end, longest = self._written(config, "end"), max(self._steps // _LONGEST_WARM_UP, 2)
        in_proportion = config.get("by_epoch", True) or self._written_for is not None
        if self._is_timed_by_run(config) and in_proportion:  # then its part of the run is meant
            longest = max(longest, round(end * self._factor))
        return min(round(end), longest)

    def _is_timed_by_run(self, config: Mapping[str, Any]) -> bool:
        """Whether a scheduler counts epochs, or iterations, as the training does."""
        return config.get("by_epoch", True) == self._by_epoch and _name(config) in _FITTED

    def _tell(self, config: Mapping[str, Any], old: dict, new: dict) -> None:
        by_epoch = config.get("by_epoch", True) and not is_warm_up(config)
        unit, word = (self._epoch, "epochs") if by_epoch else (1, "steps")
        keys = ("milestones", *_DURATIONS, "end", "begin")
        key = next(key for key in keys if key in new)
        values = [x[key] if key == "milestones" else [x[key]] for x in (new, old)]
        now, before = (" and ".join(f"{one / unit:.6g}" for one in value) for value in values)
        what = {"milestones": "drops after", "step_size": "drops every"}.get(key, "takes")
        name = "warm-up" if is_warm_up(config) else _type_name(config)
        self.changes.append(f"{name} {what} {now} {word}, not {before}")


def is_warm_up(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler only leads up to the learning rate, at the start of a training."""
    leads_up = config.get("end_factor", 1.0) == 1.0 and not config.get("begin")
    return _name(config) in _WARM_UPS and leads_up and config.get("end") is not None


def _is_config(scheduler: Any) -> bool:
    """Whether it can be fitted; mmengine names values that cannot be meant."""
    if not isinstance(scheduler, Mapping) or "type" not in scheduler:
        return False
    places = [scheduler.get(key) for key in (*_PLACES, *_DURATIONS) if key != "milestones"]
    milestones = scheduler.get("milestones") or []
    return isinstance(milestones, list | tuple) and all(map(_is_place, [*places, *milestones]))


def _is_place(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _name(config: Mapping[str, Any]) -> str:
    """What a scheduler does: ``MultiStep`` of ``MultiStepLR`` or ``MultiStepMomentum``."""
    name = _type_name(config)
    for ending in ("LR", "Momentum", "ParamScheduler"):
        name = name.removesuffix(ending)
    return name


def _type_name(config: Mapping[str, Any]) -> str:
    kind = config["type"]
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]


def _end(config: Mapping[str, Any]) -> float:
    """Where a scheduler ends, in what it counts; 0 if it does not say."""
    lasts = config.get("T_max") or config.get("total_steps") or 0
    return config.get("end") or (config.get("begin", 0) + lasts if lasts else 0)

"""The leaves of ``configs/``."""

import copy
import functools
from pathlib import Path

from mmengine import Config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load(name: str) -> Config:
    """A copy of the config, for building writes into a config."""
    return copy.deepcopy(_read(name))


@functools.cache
def _read(name: str) -> Config:
    return Config.fromfile(CONFIGS / f"{name}.py")

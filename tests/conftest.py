"""Fixtures shared by all tests."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import mmengine.config.utils
import pytest
import torch
from mmengine.registry import DefaultScope

import swin_dense  # noqa: F401  (prepares OpenMMLab before any test imports it)

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers already share the cores

REPO = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("SWIN_DENSE_SHARED", REPO.parent / "shared"))


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and golden figures that are not shipped with the project (licences)."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED} (set SWIN_DENSE_SHARED)")
    return SHARED


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_scope_is_left():
    """mmengine's runners set a default scope and never take it back."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope="session", autouse=True)
def _metafiles_are_read_once():
    """For each ``mmdet::`` in a config, mmengine reads all of mmdet's metafiles, half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.utils, "load", functools.cache(mmengine.config.utils.load))
        yield

"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import swin_dense  # noqa: F401  (prepares OpenMMLab before any test imports it)

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

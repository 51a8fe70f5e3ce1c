"""The notebook in ``docs/`` runs, here with weights that were not trained."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from swin_dense.datasets.shapes import ShapesSpec, write_shapes
from swin_dense.engine.config.prepare import prepare_prediction

CLASSES = ("circle", "square", "triangle", "star")


@pytest.fixture
def clone(tmp_path) -> Path:
    """What `make demo` leaves in a clone."""
    write_shapes(tmp_path / "data" / "shapes", ShapesSpec(train=1, val=4, size=64))
    cfg = prepare_prediction("cascade_swin_nano_shapes")
    init_default_scope(cfg.default_scope)
    content = {
        "state_dict": MODELS.build(cfg.model).state_dict(),
        "meta": {"dataset_meta": {"classes": CLASSES}},
    }
    (tmp_path / "work_dirs" / "demo").mkdir(parents=True)
    torch.save(content, tmp_path / "work_dirs" / "demo" / "last.pth")
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_notebook(repo, clone, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(repo))
    notebook = nbformat.read(repo / "docs" / "python.ipynb", as_version=4)
    shown = [[output.output_type for output in cell.get("outputs", [])] for cell in notebook.cells]
    resources = {"metadata": {"path": str(clone / "docs")}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    assert any(shown)
    for cell, stored in zip(notebook.cells, shown, strict=True):
        found = [output.output_type for output in cell.get("outputs", [])]
        assert set(found) <= set(stored), cell.source
    results = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in results)
    assert any("<Prediction of 64 x 64 pixels" in str(output) for output in results)
    assert not list((clone / "docs").iterdir())

"""Our operators against figures that mmcv 2.1.0's own, compiled, gave on a CPU with torch 2.11.0.

Compiled were the C++ sources of these operators alone, not all of mmcv. Focal losses, RoIPool and
deformable attention have no CPU source in mmcv: ``test_operators.py`` has plain references.
"""

import json
from pathlib import Path

import pytest
from mmcv_cases import cases, figures

import swin_dense  # noqa: F401  (makes mmcv.ops importable)

FIGURES = json.loads(Path(__file__).with_name("mmcv_figures.json").read_text())


def test_every_case_has_figures() -> None:
    assert set(FIGURES) == set(cases())


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_equals_compiled_mmcv(name: str) -> None:
    outputs = cases()[name]()
    assert outputs.keys() == FIGURES[name].keys()
    for key, expected in FIGURES[name].items():
        actual = figures(outputs[key])
        assert actual["shape"] == expected["shape"]
        # Both sum in float32, in different orders: 1e-5 of the norm is some 100 roundings.
        tolerance = 1e-5 * max(1.0, expected.get("norm", 0.0))
        for quantity in expected.keys() - {"shape"}:
            assert actual[quantity] == pytest.approx(expected[quantity], abs=tolerance, rel=0), key

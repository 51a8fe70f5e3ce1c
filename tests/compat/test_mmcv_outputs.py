"""Our operators against outputs of mmcv 2.1.0's compiled ones, on a CPU with torch 2.11.0.

Only the C++ sources of these operators were compiled, not all of mmcv. Focal losses, RoIPool and
deformable attention have no CPU source in mmcv: ``test_ops.py`` has plain references.
"""

import json
from pathlib import Path

import pytest
from mmcv_cases import cases, summary

import swin_dense  # noqa: F401  (makes mmcv.ops importable)

EXPECTED = json.loads(Path(__file__).with_name("mmcv_outputs.json").read_text())


def test_every_case_has_a_summary() -> None:
    assert set(EXPECTED) == set(cases())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_equals_compiled_mmcv(name: str) -> None:
    outputs = cases()[name]()
    assert outputs.keys() == EXPECTED[name].keys()
    for key, expected in EXPECTED[name].items():
        actual = summary(outputs[key])
        assert actual["shape"] == expected["shape"]
        # Both sum in float32, in different orders: 1e-5 of the norm is about 100 roundings.
        tolerance = 1e-5 * max(1.0, expected.get("norm", 0.0))
        for quantity in expected.keys() - {"shape"}:
            assert actual[quantity] == pytest.approx(expected[quantity], abs=tolerance, rel=0), key

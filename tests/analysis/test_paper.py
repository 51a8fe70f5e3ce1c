"""The published numbers equal those in the shared copy of the tables."""

import json
from pathlib import Path

import pytest

from swin_dense.analysis.paper import MOBY_WEIGHTS, ROWS, WEIGHTS, find_rows
from swin_dense.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TABLES = ("table_2a", "table_2b", "table_2c", "table_3", "official_results_not_in_tables")


@pytest.fixture
def tables(shared) -> dict:
    return json.loads((shared / "paper" / "tables.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("table", TABLES)
def test_rows_equal_table_rows_with_a_parameter_count(table, tables):
    published = [row for row in tables[table] if row["params_m"] is not None]
    ours = [row for row in ROWS if row.table == table]
    assert [(r.method, r.backbone, r.params_m, r.flops_g, r.fps) for r in ours] == [
        (r["method"], r["backbone"], r["params_m"], r["flops_g"], r.get("fps")) for r in published
    ]
    for row, official in zip(ours, published, strict=True):
        assert row.schedule == official.get("schedule")
        assert row.crop == official.get("crop", 512 if table == "table_3" else None)
        assert row.multi_scale_test == official.get("multi_scale_test", False)
        assert row.miou == official.get("val_miou_ms_flip")
        assert row.miou_single == official.get("val_miou_single")
        box = official.get("minival_box", official.get("box"))
        mask = official.get("minival_mask", official.get("mask"))
        # Tables 2a and 2b list all of box AP, AP50 and AP75.
        assert row.box == (box[0] if isinstance(box, list) else box)
        assert row.mask == (mask[0] if isinstance(mask, list) else mask)


def test_weights_equal_the_official_releases(tables):
    assert sorted(WEIGHTS.values()) == sorted(tables["released_weights"]["trained"].values())
    assert set(WEIGHTS) <= {row.config for row in ROWS}


def test_rows_of_moby_are_supervised_ones_with_other_weights():
    """Its recipes are those configs; names of rows, weights and scores are its own."""
    moby = [row for row in ROWS if row.table == "moby"]
    assert len(moby) == len({row.weights for row in moby}) == len(MOBY_WEIGHTS) == 5
    for row in moby:
        (found,) = find_rows(row.name, CONFIGS)
        assert found == row
        supervised = find_rows(row.name.removeprefix("moby_"), CONFIGS)
        (same,) = {(r.method, r.backbone, r.params_m, r.flops_g) for r in supervised}
        assert same == (row.method, row.backbone, row.params_m, row.flops_g)
        assert {r.weights for r in supervised}.isdisjoint({row.weights})
        assert row.weights.rpartition("/")[2].startswith("moby_")
        # It says of itself that it is on par.
        (score,) = {r.miou or r.box for r in supervised if r.schedule == row.schedule}
        assert (row.miou or row.box) == pytest.approx(score, abs=0.6)


def test_every_row_has_a_config():
    assert [row.config for row in ROWS if not (CONFIGS / f"{row.config}.py").is_file()] == []


def test_rows_are_found_by_name_and_by_config():
    assert {row.table for row in find_rows("cascade_swin_t", CONFIGS)} == {
        "table_2a",
        "table_2b",
        "official_results_not_in_tables",
    }
    assert find_rows("cascade_swin_t_coco", CONFIGS) == find_rows("cascade_swin_t", CONFIGS)


def test_config_without_a_published_row(tmp_path):
    (tmp_path / "own_detector_coco.py").touch()
    (row,) = find_rows("own_detector", tmp_path)
    assert (row.table, row.config, row.params_m) == ("not_published", "own_detector_coco", None)


@pytest.mark.parametrize(
    ("name", "hint"), [("cascade_swim_t", "did you mean cascade_swin_t"), ("?", "there are atss")]
)
def test_unknown_row_raises_with_suggestions(name, hint):
    with pytest.raises(UserError, match=hint):
        find_rows(name, CONFIGS)

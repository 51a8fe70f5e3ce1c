"""Pictures of training images, of pipelines of every form."""

from pathlib import Path

import pytest
from mmengine import Config

from swin_dense.engine.config.own_data import apply_own_data
from swin_dense.reports.samples import augmented_samples, loaded_samples

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("name", ["cascade_swin_nano_own", "soft_teacher_swin_t_coco"])
def test_samples(name, shapes_root, tmp_path):
    """The second has branches, each with a packing step of its own."""
    part = "dict(ann_file='annotations/instances_val2017.json', img_dir='val2017')"
    more = f", unlabeled={part}" if "teacher" in name else ""
    path = tmp_path / "own.py"
    path.write_text(
        f"_base_ = [{str(CONFIGS / name)!r} + '.py']\n"
        f"own_data = dict(root={str(shapes_root)!r}, train={part}, val={part}{more})\n"
    )
    cfg = apply_own_data(Config.fromfile(path))
    loaded, augmented = list(loaded_samples(cfg, 2)), list(augmented_samples(cfg, 2))
    folder = shapes_root / "val2017"
    assert {image.parent for _, image in loaded + augmented} == {folder}
    for picture, _ in loaded:
        assert picture.shape == (384, 384, 3)  # 64 x 64 pixels, drawn six times as large
    assert len(augmented) == 2

"""Values of ``--cfg-options``, as they are typed."""

import pytest

from swin_dense import config_tree
from swin_dense.engine.config.load import parse_options, read_config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/a b/c", "/a b/c"),
        ("'/a b/c'", "/a b/c"),
        ("/my data (copy)/c", "/my data (copy)/c"),
        ("[a b, c d]", ["a b", "c d"]),
        ("( 1, 2.5 )", (1, 2.5)),
        ("[(0, 1), [x y, None]]", [(0, 1), ["x y", None]]),
        ("1, 2", [1, 2]),
        ("true", True),
        ("1e-3", 1e-3),
        ("", ""),
    ],
)
def test_values_keep_their_spaces(text, value):
    assert parse_options([f"key={text}"]) == {"key": value}


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_sizes_in_plain_configs_are_those_of_python(tmp_path, suffix):
    """mmengine writes lists for tuples; mmcv's transforms take no lists as sizes."""
    cfg = read_config("cascade_swin_t_coco")
    cfg.dump(tmp_path / f"config{suffix}")
    found = read_config(tmp_path / f"config{suffix}")
    sizes = [
        [
            [step.get(key) for key in ("type", "scale", "scales", "crop_size")]
            for pipeline in config_tree.pipelines(one)
            for step in config_tree.steps(pipeline)
        ]
        for one in (cfg, found)
    ]
    assert sorted(map(str, sizes[0])) == sorted(map(str, sizes[1]))
    assert ["Resize", (1333, 800), None, None] in sizes[1]

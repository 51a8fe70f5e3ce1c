"""Values of ``--cfg-options``, as they are typed."""

import pytest

from swin_dense.engine.config.load import parse_options


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

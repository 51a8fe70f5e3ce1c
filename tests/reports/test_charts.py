"""Charts of names of any kind."""

import base64
import warnings

import numpy as np

from swin_dense.reports import charts
from swin_dense.reports.page import Section

NAMES = ["$x_{$", "a $b$ c", "\u5c71\u7af9 <b>", "_hidden"]


def drawn(figure) -> str:
    section = Section("x")
    section.figure(figure)
    (source,) = section.blocks[0]["sources"]
    return base64.b64decode(source.partition(",")[2]).decode()


def test_names_are_drawn_as_they_are():
    """No formulas are looked for, and the browser has letters that matplotlib has not."""
    values = [0.5, float("nan"), 0.0, 1.0]
    precision = np.tile(np.linspace(1, 0, 101), (4, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = [
            drawn(charts.class_bars(NAMES, {"AP": values}, "AP")),
            drawn(charts.confusion_matrix(np.eye(4, dtype=int), NAMES, NAMES)),
            drawn(charts.precision_recall("boxes", precision, NAMES)),
        ]
    for picture in pictures:
        assert "$x_{$" in picture
        assert "a $b$ c" in picture
        assert "\u5c71\u7af9 &lt;b&gt;" in picture


def test_a_matrix_of_many_classes_has_no_names():
    names = [f"class{i}" for i in range(60)]
    assert not charts.names_fit(names)
    assert "class7" not in drawn(charts.confusion_matrix(np.eye(60, dtype=int), names, names))
    table = np.eye(60, dtype=int)
    table[4, 9] = 3
    assert charts.most_confused(table, names, names) == [["class4", "class9", 3, 0.75]]

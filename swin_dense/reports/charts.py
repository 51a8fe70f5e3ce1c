"""The charts of reports."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swin_dense.reports.history import (
    History,
    loss_parts,
    main_metrics,
    metric_series,
    series,
    short_name,
)
from swin_dense.reports.page import COLOURS, new_figure

_MOST_POINTS = 600  # of a curve: more than a page has pixels for
_MOST_NAMES = 40  # classes that are written beside a matrix
_MOST_NUMBERS = 14  # classes whose cells can hold numbers


def smoothed(values: Sequence[float], window: int | None = None) -> NDArray:
    """The mean of each value and those before it, of a tenth of all by default."""
    window = window or max(1, len(values) // 10)
    sums = np.cumsum(np.asarray(values, float))
    lengths = np.minimum(np.arange(1, len(values) + 1), window)
    before = np.concatenate([np.zeros(min(window, len(sums))), sums[:-window]])
    return (sums - before) / lengths


def thinned(*columns: Sequence[float] | NDArray) -> list[NDArray]:
    """Every n-th of several columns, and the last, so that curves of any run are drawn fast."""
    count = len(columns[0])
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(int))
    return [np.asarray(column)[chosen] for column in columns]


def training_curves(history: History) -> list[Any]:
    """Loss, its parts, learning rate and metrics over the iterations of a training."""
    figures, (loss, parts, rate, metrics) = zip(*(new_figure() for _ in range(4)), strict=True)
    titles = ("loss", "parts of the loss", "learning rate", "metrics on validation data")
    for axes, title in zip((loss, parts, rate, metrics), titles, strict=True):
        _name(axes, title, "iteration")
    steps, values = series(history.steps, "loss")
    if steps:
        _curve(loss, steps, values, "loss", COLOURS[0])
    names = loss_parts(history.steps)
    for index, name in enumerate(names):
        steps, values = series(history.steps, name)
        if steps:
            style = ("-", "--", ":")[index // len(COLOURS) % 3]
            curve = thinned(steps, smoothed(values))
            parts.plot(*curve, style, label=name, linewidth=1.3)
    rate.plot(*thinned(*series(history.steps, "lr")))
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    rate.set_ylim(bottom=0)
    for index, name in enumerate(main_metrics(history.evaluations)):
        x, y = metric_series(history.evaluations, name)
        metrics.plot(x, y, "o-", label=short_name(name), markersize=3, color=_cycle(index))
    if names:
        _legend(parts, 7 if len(names) < 13 else 5)
    if history.evaluations:
        _legend(metrics)
    else:
        metrics.text(0.5, 0.5, "no evaluation", transform=metrics.transAxes, ha="center")
    return list(figures)


def compared_curves(histories: Mapping[str, History]) -> list[Any]:
    """Loss, learning rate and the main metrics of several trainings, one colour each."""
    names = list(dict.fromkeys(n for h in histories.values() for n in main_metrics(h.evaluations)))
    histories = dict(zip(_plain(list(histories)), histories.values(), strict=True))
    figures = []
    for name in ("loss", "lr", *names[:4]):
        figure, axes = new_figure()
        for index, (label, history) in enumerate(histories.items()):
            if name in ("loss", "lr"):
                x, y = series(history.steps, name)
            else:
                x, y = metric_series(history.evaluations, name)
            if x and name == "loss":
                _curve(axes, x, y, label, _cycle(index))
            elif x:
                mark = "-" if name == "lr" else "o-"
                axes.plot(*thinned(x, y), mark, markersize=3, color=_cycle(index), label=label)
        _name(axes, "learning rate" if name == "lr" else short_name(name), "iteration")
        axes.legend(fontsize=7)
        figures.append(figure)
    return figures


def precision_recall(title: str, precision: NDArray, names: Sequence[str]) -> Any:
    """Precision over recall at an IoU of 0.5: all classes thin, their mean thick.

    Args:
        title: of the chart.
        precision: (classes, 101), as of ``evaluate_classes``.
        names: of the classes.
    """
    names = _plain(names)
    figure, axes = new_figure(size=(5.6, 3.3))
    recall = np.linspace(0, 1, 101)
    known = [(name, line) for name, line in zip(names, precision, strict=True) if line[0] >= 0]
    for index, (name, line) in enumerate(known):
        if len(known) <= len(COLOURS):
            axes.plot(recall, line, color=_cycle(index), linewidth=1.2, label=name)
        else:
            axes.plot(recall, line, color="#9aa3ad", linewidth=0.6, alpha=0.6)
    if known:
        mean = np.mean([line for _, line in known], axis=0)
        axes.plot(recall, mean, color="black", linewidth=2.2, label="mean of classes")
        _legend(axes)
    _name(axes, title, "recall", "precision")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03))
    return figure


def f1_curve(curves: Mapping[str, tuple[NDArray, NDArray]]) -> Any:
    """F1 over the lowest score of the detections that count, for boxes and masks."""
    figure, axes = new_figure(size=(5.6, 3.3))
    for index, (name, (scores, values)) in enumerate(curves.items()):
        best = int(values.argmax())
        label = f"{name}: {values[best]:.3f} at {scores[best]:.2f}"
        axes.plot(scores, values, color=_cycle(index), label=label)
        axes.plot(scores[best], values[best], "o", color=_cycle(index), markersize=5)
    _name(axes, "F1 by score", "lowest score", "F1")
    axes.set(xlim=(0, 1), ylim=(0, 1.03))
    _legend(axes)
    return figure


def error_bars(costs: Mapping[str, Mapping[str, float]]) -> Any:
    """By how much AP50 would rise without the errors of each kind, for boxes and masks."""
    figure, axes = new_figure(size=(6.4, 2.8))
    height = 0.8 / len(costs)
    for index, (kind, values) in enumerate(costs.items()):
        places = np.arange(len(values)) + (index - (len(costs) - 1) / 2) * height
        bars = axes.barh(
            places, list(values.values()), height * 0.9, label=kind, color=_cycle(index)
        )
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
        axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    if not any(value for values in costs.values() for value in values.values()):
        axes.set_xlim(0, 1)
    _name(axes, "AP50 lost by kind of error")
    axes.grid(axis="y", visible=False)
    if len(costs) > 1:
        _legend(axes)
    return figure


def class_bars(
    names: Sequence[str],
    values: Mapping[str, Sequence[float]],
    title: str,
    percent: bool = False,
) -> Any:
    """A bar for each class, in the order given; several values (0 to 1) stand side by side."""
    figure, axes = new_figure(size=(8.4, max(1.6, 0.3 * len(names) + 0.8)))
    height = 0.8 / len(values)
    for index, (label, bars) in enumerate(values.items()):
        places = np.arange(len(names)) + (index - (len(values) - 1) / 2) * height
        drawn = axes.barh(
            places, np.nan_to_num(bars), height * 0.9, label=label, color=_cycle(index)
        )
        texts = [f"{100 * b:.1f}" if percent else f"{b:.2f}" for b in bars]
        texts = ["-" if b != b else text for b, text in zip(bars, texts, strict=True)]
        axes.bar_label(drawn, texts, padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), _plain(names))
    _name(axes, title)
    axes.set(xlim=(0, 1.08), ylim=(len(names) - 0.4, -0.6))
    if percent:
        axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y", visible=False)
    if len(values) > 1:
        _legend(axes)
    return figure


def confusion_matrix(table: NDArray, rows: Sequence[str], columns: Sequence[str]) -> Any:
    """A confusion matrix whose colours are fractions of the true class (of the row)."""
    fractions = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = float(np.clip(0.32 * len(rows) + 1.6, 3.4, 9.5))
    figure, axes = new_figure(size=(side + 1.2, side))
    shown = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if names_fit(rows):
        axes.set_xticks(range(len(columns)), _plain(columns), rotation=90 if len(rows) > 6 else 45)
        axes.set_yticks(range(len(rows)), _plain(rows))
        for label in axes.get_xticklabels():
            label.set(rotation_mode="anchor", ha="right", va="center" if len(rows) > 6 else "top")
    if len(rows) <= _MOST_NUMBERS:
        for (i, j), fraction in np.ndenumerate(fractions):
            if table[i, j]:
                ink = "white" if fraction > 0.55 else "#1d242b"
                axes.text(j, i, _short(fraction), ha="center", va="center", fontsize=8, color=ink)
    figure.colorbar(shown, ax=axes, shrink=0.7, label="fraction of the row")
    return figure


def names_fit(rows: Sequence[str]) -> bool:
    """Whether a confusion matrix has the names of its rows, not their numbers."""
    return len(rows) <= _MOST_NAMES + 1


def most_confused(
    table: NDArray, rows: Sequence[str], columns: Sequence[str], most: int = 15
) -> list[list[Any]]:
    """The largest entries beside the diagonal: true, predicted, number, fraction of the row."""
    counts = np.array(table)
    np.fill_diagonal(counts, 0)
    found = []
    for flat in np.argsort(-counts, axis=None, kind="stable")[:most]:
        i, j = np.unravel_index(flat, counts.shape)
        if counts[i, j]:
            fraction = float(counts[i, j] / table[i].sum())
            found.append([rows[i], columns[j], int(counts[i, j]), fraction])
    return found


def _curve(
    axes: Any, steps: Sequence[int], values: Sequence[float], label: str, colour: str
) -> None:
    """A noisy curve, pale, and its moving mean."""
    x, y, mean = thinned(steps, values, smoothed(values))
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(x, mean, color=colour, linewidth=1.6, label=label)


def _name(axes: Any, title: str, x: str = "", y: str = "") -> None:
    """Writes a chart's title and the names of its axes; iterations are whole numbers."""
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set(xlabel=x, ylabel=y)
    if x == "iteration":
        axes.xaxis.get_major_locator().set_params(integer=True)


def _legend(axes: Any, size: float = 8) -> None:
    """What the lines are, beside the chart, where it hides none."""
    place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.02)}
    axes.legend(**place, frameon=False, fontsize=size)


def _cycle(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _plain(names: Sequence[str]) -> list[str]:
    """Names in which matplotlib looks for no formulas."""
    return [name.replace("$", r"\$") for name in names]


def _short(fraction: float) -> str:
    return f"{fraction:.2f}".removeprefix("0") if fraction < 0.995 else "1"

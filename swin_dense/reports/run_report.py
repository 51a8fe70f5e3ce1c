"""The report of a training, or of a test's predictions: one HTML file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray

from swin_dense.config_tree import is_segmentation
from swin_dense.engine.config.prepare import load_config
from swin_dense.engine.drawing import draw_detections, draw_segmentation, enlarged, side_by_side
from swin_dense.engine.images import UnreadableImageError, read_image
from swin_dense.engine.terminal.metrics import class_columns
from swin_dense.errors import UserError
from swin_dense.reports import charts
from swin_dense.reports.history import History, metric_series, read_history
from swin_dense.reports.page import Page, Picture, Section
from swin_dense.reports.predictions import Record, label_map_of, read_predictions

_KINDS = {"bbox": "boxes", "segm": "masks"}
_CHARTED_CLASSES = 30
_HALF = 480  # pixels of the long side of ground truth and of prediction


def report_on_run(
    work_dir: str | Path,
    *,
    data_root: str | Path | None = None,
    most_images: int | None = None,
    pictures: int = 6,
) -> Page:
    """The report of the trainings in a work dir.

    What a section needs and is not there, such as an evaluation, is said in it.

    Args:
        work_dir: as of a training.
        data_root: where the data are, if not where the config says.
        most_images: of the last evaluation, evenly chosen; all by default.
        pictures: how many of the best images, and of the worst ones, are shown.

    Raises:
        UserError: it is no work dir of a training.
    """
    history = read_history(work_dir)
    cfg = _read_config(history.config, data_root)
    done = history.steps[-1]
    epochs = f", {done['epoch']} epochs" if "epoch" in done else ""
    page = Page(
        f"Training: {Path(work_dir).resolve().name}", f"{done['step']:,} iterations{epochs}"
    )
    _add_summary(page, history)
    curves = page.section("Curves")
    curves.figures(
        charts.training_curves(history),
        "Losses are means over a tenth of the training; the pale line is each logged one.",
    )
    if history.predictions is None:
        page.section("Evaluation", "No evaluation was made, or its predictions were not kept.")
    elif cfg is None:
        page.section("Evaluation", "The work dir has no config, which tells where the data are.")
    else:
        _add_analysis(
            page, cfg, "val", read_predictions(history.predictions), most_images, pictures
        )
    _add_batches(page, history)
    _add_run(page, history, cfg)
    return page


def report_on_predictions(
    predictions: str | Path,
    config: str | Path,
    *,
    data_root: str | Path | None = None,
    most_images: int | None = None,
    pictures: int = 6,
) -> Page:
    """The report of what ``tools/test.py --out`` saved; see :func:`report_on_run`.

    Raises:
        UserError: there is no such file, or it does not fit the config.
    """
    records = read_predictions(predictions)
    cfg = load_config(config, data_root=data_root)
    page = Page(
        f"Predictions: {Path(predictions).name}", f"{len(records):,} images, config {config}"
    )
    _add_analysis(page, cfg, "test", records, most_images, pictures, must_fit=True)
    page.section("Config").code(cfg.pretty_text, "the whole config")
    return page


def _read_config(path: Path | None, data_root: str | Path | None) -> Config | None:
    return None if path is None else load_config(path, data_root=data_root)


def _add_summary(page: Page, history: History) -> None:
    """The last and the best value of every metric."""
    section = page.section("Results")
    if not history.evaluations:
        section.text("The training was not evaluated: val_interval of the config says when it is.")
        return
    last = history.evaluations[-1]
    rows = []
    for name, value in last["metrics"].items():
        steps, values = metric_series(history.evaluations, name)
        if not values or class_columns({name: value}):  # classes have a table of their own
            continue
        best = int(np.argmax(values))
        rows.append([name, None if value == -1 else value, values[best], steps[best]])
    section.table(
        ["metric", "last:", "highest:", "at iteration:"],
        rows,
        f"The last evaluation was after iteration {last['iter']:,}; {len(history.evaluations)} in "
        "all.",
    )


def _add_analysis(
    page: Page,
    cfg: Config,
    split: str,
    records: list[Record],
    most_images: int | None,
    pictures: int,
    must_fit: bool = False,
) -> None:
    """The sections on predictions, of a detector or a segmentor."""
    total = len(records)
    if most_images is not None and total > most_images:
        chosen = np.linspace(0, total - 1, most_images).round().astype(int)
        records = [records[i] for i in chosen]
    add = _add_maps if is_segmentation(cfg) else _add_detections
    start = len(page.sections)
    try:
        _check_kind(cfg, records)
        add(page, cfg, split, records, pictures)
    except (UserError, OSError) as error:
        if must_fit:
            raise
        del page.sections[start:]
        page.section("Evaluation", f"The predictions cannot be compared with the data: {error}")
        return
    if len(records) < total:
        note = (
            f"The figures from here on are of {len(records):,} of the {total:,} images, evenly "
            "chosen; tools/report.py takes all."
        )
        page.sections[start].blocks.insert(0, {"kind": "warning", "text": note})


def _check_kind(cfg: Config, records: Sequence[Record]) -> None:
    if not records:
        raise UserError("there are no predictions")
    of_maps = "label_map" in records[0]
    if of_maps != is_segmentation(cfg):
        kinds = ("a segmentor", "a detector")
        raise UserError(
            f"the predictions are those of {kinds[not of_maps]}, the config is of "
            f"{kinds[of_maps]}: give the --config of these predictions"
        )


def _add_detections(
    page: Page, cfg: Config, split: str, records: list[Record], pictures: int
) -> None:
    from swin_dense.reports import detection  # mmdet may be missing

    truth = detection.read_truth(cfg, split, records)
    kinds = ["bbox"]
    if truth.has_masks() and all("masks" in one for one in records):
        kinds.append("segm")
    curves = _add_classes(page, truth, records, kinds)
    matchings = {_KINDS[kind]: detection.match(truth, records, kind) for kind in kinds}
    f1 = {name: detection.f1_by_score(found) for name, found in matchings.items()}
    scores, values = f1["boxes"]
    best = float(scores[values.argmax()]) if values.any() else 0.3
    page.section("Precision and recall").figures(
        [*curves, charts.f1_curve(f1)],
        "At an IoU of 0.5. F1 is that of all detections of at least the score on the axis; for "
        + (
            f"boxes it is highest at {best:.2f}, which the next sections use."
            if values.any()
            else f"boxes it is 0 at all of them; the next sections use {best:.2f}."
        ),
    )
    shown = detection.above(records, best)
    at_best = {_KINDS[kind]: detection.match(truth, shown, kind) for kind in kinds}
    _add_errors(page, matchings, at_best, len(truth.classes), best)
    table = detection.confusion(at_best["boxes"], len(truth.classes))
    section = page.section(
        "Confusion matrix",
        f"Boxes with scores of at least {best:.2f} and objects, in pairs of an IoU of at least 0.5 "
        "whatever their classes.",
    )
    _add_confusion(section, table, [*truth.classes, "background"], [*truth.classes, "missed"])

    def draw(one: detection.ImageScore) -> Picture:
        caption = f"{one.found} found, {one.missed} missed, {one.false} false"
        return _picture_of_boxes(truth, shown[one.index], caption)

    order = detection.score_images(at_best["boxes"])
    _add_pictures(page, order, draw, pictures, f"by F1 of boxes with scores of at least {best:.2f}")


def _add_classes(page: Page, truth: Any, records: list[Record], kinds: Sequence[str]) -> list[Any]:
    """A section with AP; returns charts of precision and recall."""
    from swin_dense.reports import detection

    section = page.section("Classes")
    objects = dict.fromkeys(truth.category_ids, 0)
    for one in truth.coco.dataset["annotations"]:
        objects[one["category_id"]] += not one.get("iscrowd")
    columns: dict[str, dict[str, float]] = {}
    curves = {}
    for kind in kinds:
        by_class, precision = detection.evaluate_classes(truth, records, kind)
        curves[_KINDS[kind]] = precision
        for name in ("mAP", "mAP_50", "mAP_75"):
            column = f"{_KINDS[kind]} {name.replace('mAP_', 'AP').replace('mAP', 'AP')}"
            columns[column] = {one: aps[name] for one, aps in by_class.items()}
    rows = [
        [name, count, *(column[name] for column in columns.values())]
        for name, count in zip(truth.classes, objects.values(), strict=True)
    ]
    main = f"{_KINDS[kinds[-1]]} AP"
    rows.sort(key=lambda row: np.nan_to_num(columns[main][row[0]], nan=2.0))
    charted = [row[0] for row in rows if row[1]][:_CHARTED_CLASSES]
    if charted:
        bars = {
            key: [columns[key][name] for name in charted] for key in columns if key[-2:] == "AP"
        }
        few = "" if len(charted) == len(rows) else f" (the {len(charted)} lowest with objects)"
        section.figure(charts.class_bars(charted, bars, f"AP by class{few}"))
    means = ", ".join(
        f"{name} {np.nanmean([*column.values(), np.nan]):.3f}" if any(objects.values()) else name
        for name, column in columns.items()
    )
    section.table(
        ["class", "objects:", *(f"{name}:" for name in columns)],
        rows,
        f"Mean of the classes with objects: {means}. AP is COCO's, the mean over IoU thresholds of "
        "0.5 to 0.95; AP50 and AP75 are of one. Lowest first.",
    )
    return [
        charts.precision_recall(name, precision, truth.classes)
        for name, precision in curves.items()
    ]


def _add_errors(
    page: Page, everything: dict[str, Any], at_best: dict[str, Any], classes: int, score: float
) -> None:
    from swin_dense.reports import detection

    section = page.section(
        "Errors",
        "What keeps AP50 from 1, with the definitions of TIDE (Bolya et al., ECCV 2020): by how "
        "much it would rise if the errors of one kind were fixed and all others stayed.",
    )
    costs, bases = {}, {}
    for name, found in everything.items():
        bases[name], costs[name] = detection.cost_of_errors(found, classes)
    section.figure(
        charts.error_bars(costs),
        "AP50 now: " + ", ".join(f"{name} {base:.3f}" for name, base in bases.items()) + ".",
    )
    numbers = {name: detection.count_errors(found) for name, found in at_best.items()}
    section.table(
        ["kind", "what it is", *(f"{name}:" for name in numbers)],
        [
            [kind, detection.MEANING[kind], *(counts[kind] for counts in numbers.values())]
            for kind in detection.ERRORS
        ],
        f"How often, among detections with scores of at least {score:.2f}.",
    )


def _add_confusion(
    section: Section, table: NDArray, rows: Sequence[str], columns: Sequence[str]
) -> None:
    many = "" if charts.names_fit(rows) else "Classes have their numbers, from 0 on."
    section.figure(charts.confusion_matrix(table, rows, columns), many)
    confused = charts.most_confused(table, rows, columns)
    if confused:
        section.table(["true", "predicted", "number:", "of the true ones:"], confused)


def _add_maps(page: Page, cfg: Config, split: str, records: list[Record], pictures: int) -> None:
    from swin_dense.reports import segmentation  # mmseg may be missing

    truth = segmentation.MapTruth(cfg, split, records)
    total = np.zeros((len(truth.classes),) * 2, np.int64)
    scores = []
    for index, table in enumerate(segmentation.compare_maps(truth, records)):
        total += table
        scores.append(segmentation.score_map(index, table))
    ious, accuracies = segmentation.class_ious(total)
    section = page.section("Classes")
    order = np.argsort(np.nan_to_num(ious, nan=2.0), kind="stable")
    charted = [i for i in order if total[i].sum()][:_CHARTED_CLASSES]
    names = [truth.classes[i] for i in charted]
    few = "" if len(charted) == len(ious) else f" (the {len(charted)} lowest with pixels)"
    if names:
        section.figure(
            charts.class_bars(
                names, {"IoU": [ious[i] for i in charted]}, f"IoU by class{few}", percent=True
            )
        )
    pixels = total.sum(1) / max(total.sum(), 1)
    section.table(
        ["class", "of all pixels:", "IoU:", "accuracy:"],
        [[truth.classes[i], *(100 * x[i] for x in (pixels, ious, accuracies))] for i in order],
        f"In percent; mIoU {100 * np.nanmean(ious):.1f}. Accuracy is the part of the class's "
        "pixels that were found. Lowest first.",
    )
    section = page.section("Confusion matrix", "Pixels.")
    _add_confusion(section, total, truth.classes, truth.classes)

    def draw(one: segmentation.MapScore) -> Picture:
        record = records[one.index]
        name = Path(record["img_path"]).name
        caption = f"{name}: mIoU {one.iou:.1%}, {one.accuracy:.1%} of the pixels"
        image, _ = _readable(read_image(record["img_path"]))
        panels = {
            title: draw_segmentation(image, _fitted(labels, image), truth.classes, truth.palette)
            for title, labels in (
                ("ground truth", truth.label_map(record)),
                ("prediction", label_map_of(record)),
            )
        }
        return Picture(side_by_side(panels), caption)

    ranked = sorted(scores, key=lambda one: -one.iou)
    _add_pictures(page, ranked, draw, pictures, "by the mean IoU of the classes in an image")


def _add_pictures(
    page: Page, order: list[Any], draw: Callable[[Any], Picture], count: int, how: str
) -> None:
    """The best and the worst images, none twice."""
    count = min(count, (len(order) + 1) // 2)
    worst = order[max(count, len(order) - count) :][::-1]
    for title, images in (("Worst images", worst), ("Best images", order[:count])):
        section = page.section(title, f"{title.partition(' ')[0]} {how}.")
        drawn, missing = [], []
        for one in images:
            try:
                drawn.append(draw(one))
            except UnreadableImageError as error:
                missing.append(str(error))
        section.pictures(drawn, per_row=1)
        if missing:
            section.text(f"{len(missing)} images cannot be read: {missing[0]}")


def _picture_of_boxes(truth: Any, record: Record, caption: str) -> Picture:
    from pycocotools import mask as rle

    image, zoom = _readable(read_image(record["img_path"]))
    labels = {key: label for label, key in enumerate(truth.category_ids)}
    objects = [
        one for one in truth.coco.imgToAnns.get(record["img_id"], []) if not one.get("iscrowd")
    ]
    boxes = np.array([one["bbox"] for one in objects], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = predicted = None
    if objects and all(one.get("segmentation") for one in objects):
        masks = np.stack([_fitted(truth.coco.annToMask(one), image) > 0 for one in objects])
    if record.get("masks"):
        predicted = np.stack([_fitted(rle.decode(one), image) > 0 for one in record["masks"]])
    of_objects = np.array([labels[one["category_id"]] for one in objects], int)
    panels = {
        "ground truth": draw_detections(
            image, zoom * boxes, of_objects, None, truth.classes, masks
        ),
        "prediction": draw_detections(
            image,
            zoom * record["bboxes"],
            record["labels"],
            record["scores"],
            truth.classes,
            predicted,
        ),
    }
    return Picture(side_by_side(panels), f"{Path(record['img_path']).name}: {caption}")


def _readable(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """An image of the size at which it is shown, so that names on it can be read; the factor."""
    image, zoom = enlarged(image)
    scale = min(1.0, _HALF / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), zoom * scale


def _fitted(labels: NDArray, image: NDArray[np.uint8]) -> NDArray:
    """A mask or label map (H, W) in the size of an image that shows the same."""
    size = (image.shape[1], image.shape[0])
    return cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(int)


def _add_batches(page: Page, history: History) -> None:
    section = page.section("First batches", "Images and labels as they were trained on, augmented.")
    batches = history.batches
    if batches:
        names = [f"batch {path.stem.rpartition('_')[2]}" for path in batches]
        section.pictures(
            (Picture(path.read_bytes(), name) for path, name in zip(batches, names, strict=True)),
            per_row=1 if len(batches) == 1 else 2,
        )
    else:
        section.text("They were not kept.")


def _add_run(page: Page, history: History, cfg: Config | None) -> None:
    """Commands, versions, machine and config."""
    section = page.section("How it was run")
    if history.runs:
        section.code("\n".join(run["command"] for run in history.runs))
        run = history.runs[-1]
        millions = f"{run['parameters'] / 1e6:.1f} M, {run['trained_parameters'] / 1e6:.1f} trained"
        rows = [["device", run["device"]], ["processes", run["processes"]]]
        rows += [["parameters", millions], ["platform", run["platform"]]]
        section.table(["", ""], [*rows, *run["versions"].items()])
    else:
        section.text("The command and the versions were not kept.")
    if len(history.folders) > 1:
        names = ", ".join(folder.name for folder in history.folders)
        section.text(f"{len(history.folders)} runs, each resumed or started anew: {names}.")
    if cfg is not None:
        section.code(cfg.pretty_text, "the whole config")

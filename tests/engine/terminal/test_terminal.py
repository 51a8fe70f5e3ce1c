"""Output to the terminal and the log file, progress, and metric tables."""

import io
import json
import warnings
from types import SimpleNamespace

import pytest
from mmengine.logging import MMLogger
from rich.console import Console

from swin_dense.engine.terminal import console as terminal
from swin_dense.engine.terminal.hooks import ProgressHook
from swin_dense.engine.terminal.metrics import (
    MetricsHook,
    class_columns,
    metrics_table,
    plain_values,
    progress_table,
    show_metrics,
)
from swin_dense.engine.terminal.user_errors import as_user_error
from swin_dense.errors import UserError


def text_of(renderable) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture
def logger(tmp_path):
    name = f"test_{tmp_path.name}"
    return MMLogger(name=name, log_file=str(tmp_path / "run.log"))


def test_output_of_libraries_goes_to_the_log(logger, tmp_path, capsys):
    with terminal.quiet_terminal():
        print("before there is a log")
        terminal.redirect_log(logger)
        print("afterwards")
        logger.info("the config")
        terminal.notify_user("for the user")
    assert capsys.readouterr().out == "for the user\n"
    log = (tmp_path / "run.log").read_text()
    for line in ("before there is a log", "afterwards", "the config", "for the user"):
        assert log.count(line) == 1


def test_warnings_are_shown_unless_irrelevant_to_users(logger, tmp_path, capsys):
    with terminal.quiet_terminal():
        terminal.redirect_log(logger)
        warnings.simplefilter("always")
        warnings.warn("disk nearly full", stacklevel=1)
        warnings.warn("old name", DeprecationWarning, stacklevel=1)
        logger.warning("learning rate is zero")
        logger.warning("teacher.neck.bias is skipped since its requires_grad=False")
        logger.warning("The prefix is not set in metric class DumpResults.")
    out = capsys.readouterr().out.splitlines()
    assert out == ["warning: disk nearly full", "warning: learning rate is zero"]
    log = (tmp_path / "run.log").read_text()
    for line in ("disk nearly full", "old name", "learning rate is zero", "prefix is not set"):
        assert line in log


def test_no_redirection_outside_the_context(capsys):
    with terminal.quiet_terminal(), terminal.quiet_terminal():
        print("hidden")
    print("shown")
    assert capsys.readouterr().out == "shown\n"


def test_coco_metrics_have_columns_for_boxes_and_masks():
    metrics = {"coco/bbox_mAP": 0.5, "coco/bbox_mAP_50": 0.75, "coco/segm_mAP": 0.25}
    lines = [line for line in text_of(metrics_table(metrics)).splitlines() if "│" in line]
    assert [cell.strip() for cell in lines[0].split("│")[1:-1]] == ["mAP", "0.500", "0.250"]
    assert [cell.strip() for cell in lines[1].split("│")[1:-1]] == ["mAP_50", "0.750", ""]


def test_teacher_and_student_have_columns_of_their_own():
    metrics = {"teacher/coco/bbox_mAP": 0.5, "student/coco/bbox_mAP": 0.25}
    text = text_of(metrics_table(metrics))
    assert "teacher bbox" in text
    (line,) = [line for line in text.splitlines() if "│" in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == ["mAP", "0.500", "0.250"]


def test_other_metrics_have_a_row_each():
    text = text_of(metrics_table({"aAcc": 71.5, "mIoU": 33.0}, "after iteration 8"))
    assert "after iteration 8" in text
    assert "aAcc" in text
    assert "33.000" in text


def test_only_plain_values_are_written(tmp_path):
    import numpy as np

    found = plain_values({"a": np.float32(0.5), "b": [1, 2], "c": 3})
    assert found == {"a": 0.5, "c": 3}


def test_time_left_includes_iterations_and_evaluations(monkeypatch, capsys):
    now = SimpleNamespace(value=1000.0)
    monkeypatch.setattr("time.monotonic", lambda: now.value)
    runner = SimpleNamespace(
        iter=0,
        max_iters=14,
        train_loop=SimpleNamespace(val_interval=5),
        val_loop=object(),
        val_dataloader=[None],
        message_hub=SimpleNamespace(log_scalars={}),
    )
    hook = ProgressHook(plain_seconds=0.0)

    def iterate() -> str:
        now.value += 2.0
        hook.after_train_iter(runner, 0)
        runner.iter += 1
        return capsys.readouterr().out

    hook.before_train(runner)
    assert "left" not in iterate(), "the first iteration, slow as it is, is not measured"
    iterate()
    assert iterate() == "train 3/14  0:00:22 left\n"
    hook.before_val_epoch(runner)
    now.value += 30.0
    hook.after_val_iter(runner, 0)
    assert capsys.readouterr().out == "evaluate 1/1\n"
    hook.after_val_epoch(runner)
    assert iterate() == "train 4/14  0:01:20 left\n"  # 10 iterations, 2 evaluations


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file", "a/b.jpg"), "a/b.jpg"),
        (PermissionError(13, "Permission denied", "w/x.pth"), "w/x.pth: Permission denied"),
        (OSError(28, "No space left on device", "w"), "No space left"),
        (KeyError("Foo is not in the mmdet::model registry. Please check"), "'Foo'"),
        (Exception("Cannot find valid image after 1000!"), "no image that can be read"),
        (
            ValueError("Expected more than 1 value per channel when training, got input size"),
            "train_dataloader.batch_size",
        ),
    ],
)
def test_known_library_errors_become_user_errors(error, words):
    found = as_user_error(error)
    assert isinstance(found, UserError)
    assert words in str(found)


@pytest.mark.parametrize("error", [RuntimeError("shapes"), KeyError("x"), OSError(5, "I/O", "f")])
def test_other_errors_are_not_user_errors(error):
    assert as_user_error(error) is None


def test_worker_errors_are_reported_by_their_last_line():
    text = (
        "Caught FileNotFoundError in DataLoader worker process 0.\n"
        "Original Traceback (most recent call last):\n  File 'x.py', line 1\n"
        "FileNotFoundError: [Errno 2] No such file or directory: 'a/b.jpg'\n"
    )
    line = str(as_user_error(FileNotFoundError(text)))
    assert "a/b.jpg" in line
    assert "Traceback" not in line


def test_terminal_shows_warnings_and_user_messages(logger, monkeypatch, capsys):
    with terminal.quiet_terminal():
        terminal.redirect_log(logger)
        for rank, prefix in (("0", "first"), ("1", "second")):
            monkeypatch.setenv("RANK", rank)
            logger.info(f"{prefix} detail")
            logger.info(f"{prefix} message", extra={"for_user": True})
            logger.warning(f"{prefix} warning")
            logger.critical(f"{prefix} failure")
    assert capsys.readouterr().out.splitlines() == [
        "first message",
        "warning: first warning",
        "critical: first failure",
        "critical: second failure",
    ]


def test_metrics_of_classes_are_a_table_of_their_own(capsys):
    """Boxes beside masks, by class; a name may have any characters."""
    kinds = {"bbox": 0.5, "segm": 0.25}
    metrics = {f"coco/{kind}_mAP": value for kind, value in kinds.items()}
    metrics |= {f"coco/{kind}_a/b_c_precision": value for kind, value in kinds.items()}
    metrics["coco/bbox_none_precision"] = float("nan")
    show_metrics(metrics, "after epoch 1")
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["mAP", "0.500", "0.250"],
        ["a/b_c", "0.500", "0.250"],
        ["none", "-", ""],
    ]
    assert class_columns({"teacher/coco/bbox_x_precision": 1.0}) == {"teacher bbox AP": {"x": 1.0}}
    assert class_columns({"aAcc": 1.0, "IoU_x": 2.0}) == {"IoU": {"x": 2.0}}


def test_evaluations_are_short_while_the_training_goes_on(tmp_path, capsys):
    """A terminal has 24 lines: three metrics beside the best so far; at the end all of them."""
    names = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
    runner = SimpleNamespace(train_loop=None, epoch=0, iter=0, max_iters=3, log_dir=tmp_path)
    hook = MetricsHook()

    def evaluate(iteration: int, bbox: float, segm: float) -> list[list[str]]:
        runner.iter, metrics = iteration, {"coco/bbox_a_precision": bbox}
        for kind, value in {"bbox": bbox, "segm": segm}.items():
            metrics |= {f"coco/{kind}_{name}": value for name in names}
        hook.after_val_epoch(runner, metrics)
        return shown()

    def shown() -> list[list[str]]:
        out = capsys.readouterr().out
        assert not out or f"after iteration {runner.iter}" in out
        lines = [line.split("│")[1:-1] for line in out.splitlines() if "│" in line]
        return [[cell.strip() for cell in line] for line in lines]

    assert evaluate(1, 0.5, 0.25) == [[name, "0.500", "0.250"] for name in names[:3]]
    assert evaluate(2, 0.75, 0.125) == [[name, "0.750 best", "0.125 (0.250)"] for name in names[:3]]
    assert evaluate(3, 0.5, 0.5) == []
    hook.after_train(runner)
    assert shown() == [*([name, "0.500", "0.500"] for name in names), ["a", "0.500"]]
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert [one["metrics"]["coco/bbox_mAP_l"] for one in saved] == [0.5, 0.75, 0.5]


def test_what_is_better_lower_is_not_compared(capsys):
    table = progress_table({"mIoU": 50.0, "loss": 1.0}, [{"mIoU": 60.0, "loss": 2.0}])
    rows = [line.split("│")[1:-1] for line in text_of(table).splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["mIoU", "50.000 (60.000)"],
        ["loss", "1.000"],
    ]

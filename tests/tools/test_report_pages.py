"""``tools/report.py`` and ``tools/compare_runs.py``, and the pages that a browser makes of them."""

import json
import re
import shutil
import signal
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import cv2
import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from swin_dense.reports import hook as reports_hook
from swin_dense.reports.predictions import read_predictions


class Text(HTMLParser):
    """The text of a page, without its style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self._hidden = tag == "style"

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.parts.append(data)

    def __str__(self) -> str:
        return " ".join(" ".join(self.parts).split())


def text_of(page: Path) -> str:
    return str(Text(page.read_text()))


def check_text(text: str, kind: str) -> None:
    sections = ["Results", "Curves", "Classes", "Confusion matrix", "Worst images", "Best images"]
    sections += ["First batches", "How it was run"]
    if kind == "detector":
        sections += ["Precision and recall", "Errors"]
        assert "boxes AP50" in text
        assert "localisation" in text
        assert "coco/segm_mAP" in text
    else:
        assert "In percent; mIoU" in text  # as in the metrics
        assert "mIoU" in text
    assert not [name for name in sections if name not in text]
    for name in ("circle", "square", "triangle", "star"):
        assert name in text
    assert Path(sys.argv[0]).name in text, "the command"
    assert re.search(r"torch \d\.\d+", text)
    assert "embed_dims=8" in text, "the config"


def test_training_writes_a_report(trained):
    page = trained.work_dir / "report.html"
    check_text(text_of(page), trained.kind)
    html = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:image|#)', html), "it is one file"
    pictures = re.findall(r'src="data:image/jpeg', html)
    assert len(pictures) == 4 + 2  # images of the evaluation, first batches


def test_report_in_a_browser(trained, browser, tmp_path):
    page = trained.work_dir / "report.html"
    check_text(str(Text(browser(page, "--dump-dom"))), trained.kind)
    for width in (1200, 400):
        shot = tmp_path / f"{width}.png"
        browser(page, f"--window-size={width},4000", f"--screenshot={shot}")
        pixels = cv2.imread(str(shot))
        # A window is at least 500 pixels wide in some versions.
        assert pixels.shape[1] in (width, 500)
        colours = {tuple(colour) for colour in pixels[::3, ::3].reshape(-1, 3).tolist()}
        assert len(colours) > 1000, "charts and pictures are shown"
        inked = (pixels < 200).any(-1).mean(1)
        assert (inked > 0).mean() > 0.4, "it is full from top to bottom"


def test_report_again(trained, tool, tmp_path, capfd):
    """Of a copy of the work dir that is elsewhere, and without an evaluation."""
    copy = tmp_path / "copy"
    shutil.copytree(trained.work_dir, copy)
    (copy / "report.html").unlink()
    assert tool("report", copy) == 0
    assert capfd.readouterr().out.endswith(f"report: {copy / 'report.html'}\n")
    check_text(text_of(copy / "report.html"), trained.kind)
    (kept,) = copy.glob("*/report")
    shutil.rmtree(kept)
    assert tool("report", copy, "--out", tmp_path / "b.html") == 0
    text = text_of(tmp_path / "b.html")
    assert "No evaluation was made, or its predictions were not kept." in text
    assert "The command and the versions were not kept." in text
    assert "Curves" in text


def test_report_of_a_dump(trained, tool, tmp_path, failure):
    dump = tmp_path / "found.pkl"
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path, "--out", dump]
    assert tool("test", trained.config, trained.checkpoint, *flags) == 0
    of_training = sorted(trained.work_dir.glob("*/report/predictions.npz"))[0]
    assert len(read_predictions(dump)) == len(read_predictions(of_training)) == 4
    data = ["--data-root", trained.data_root]
    assert tool("report", dump, "--pictures", 1) == 0
    text = text_of(tmp_path / "found.html")
    table = text_of(trained.work_dir / "report.html")
    # The same table of classes, as the weights and the images are the same.
    rows = re.compile(r"(?:circle|square|triangle|star) [\d.]+ (?:[\d.]+|-) (?:[\d.]+|-)")
    assert rows.findall(text)
    assert rows.findall(text) == rows.findall(table)
    (tmp_path / "found.config.py").unlink()
    assert "give the --config" in failure("report", dump)
    other = "tiny_segmentor.py" if trained.kind == "detector" else "tiny_detector.py"
    assert "error: " in failure("report", dump, "--config", trained.config.with_name(other), *data)


def test_what_is_no_run(failure, tmp_path):
    assert "no such work dir or file of predictions: none" in failure("report", "none")
    assert "has no log of a training" in failure("report", tmp_path)
    assert "two work dirs or more" in failure("compare_runs", tmp_path)
    assert "has no log of a training" in failure("compare_runs", tmp_path, tmp_path.parent)


def test_a_report_that_fails_ends_no_training(trained, tool, tmp_path, capfd):
    """The work dir has a folder in the place of the report."""
    (tmp_path / "report.html").mkdir()
    flags = ["--data-root", trained.data_root, "--work-dir", tmp_path, "--from-scratch", "--report"]
    assert tool("train", trained.config, *flags) == 0
    lines = capfd.readouterr().out.splitlines()
    assert sum("warning: no report, or not all of it" in line for line in lines) == 1
    assert any(line.startswith("checkpoint: ") for line in lines)


@HOOKS.register_module(force=True)
class StopAt(Hook):
    """Sends SIGTERM in a step."""

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            signal.raise_signal(signal.SIGTERM)


def stop_in_step(tool, trained, folder: Path, at: int) -> Path:
    """Starts a training that is stopped by SIGTERM, of which it saves its report."""
    config = folder / "config.py"
    hook = f"custom_hooks = [dict(type='StopAt', at={at})]"
    config.write_text(f"_base_ = [{str(trained.config)!r}]\n{hook}\n")
    flags = ["--data-root", trained.data_root, "--work-dir", folder / "w", "--from-scratch"]
    assert tool("train", config, *flags, "--report") == 143
    return folder / "w"


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_a_training_that_is_stopped_has_a_report(trained, tool, tmp_path, capfd):
    work_dir = stop_in_step(tool, trained, tmp_path, at=2)
    page = work_dir / "report.html"
    out, err = capfd.readouterr()
    saved = f"stopped by SIGTERM after iteration 3, saved as {work_dir / 'iter_3.pth'}: "
    assert err.startswith(saved)
    assert err.count("\n") == 1
    assert out.endswith(f"report: {page}\n")
    text = text_of(page)
    for part in ("3 iterations", "The training was not evaluated", "First batches"):
        assert part in text
    first = page.read_bytes()
    page.unlink()
    assert tool("report", work_dir) == 0
    assert page.read_bytes() == first


@pytest.mark.parametrize("trained", ["segmentor"], indirect=True)
def test_a_report_never_hides_how_to_go_on(trained, tool, tmp_path, capfd, monkeypatch):
    """Whether it takes long or fails."""
    monkeypatch.setattr(reports_hook, "_SECONDS_AFTER_STOP", 0.1)
    monkeypatch.setattr(reports_hook, "report_on_run", lambda *_, **__: time.sleep(60))
    work_dir = stop_in_step(tool, trained, tmp_path, at=0)
    out, err = capfd.readouterr()
    assert "saved as" in err
    slow = "warning: no report, or not all of it (TimeoutError: it would take more than 0.1 s): "
    again = f"tools/report.py {work_dir} tries again, --no-report spares it"
    assert out.splitlines()[-1] == slow + again
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_a_training_that_has_logged_nothing(failure, tmp_path):
    (tmp_path / "w" / "log" / "report").mkdir(parents=True)
    (tmp_path / "w" / "log" / "report" / "run.json").write_text("{}")
    assert "has not logged a step yet" in failure("report", tmp_path / "w")


def test_runs_are_compared(trained, tool, tmp_path, capfd):
    one, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(trained.work_dir, one)
    shutil.copytree(trained.work_dir, other)
    (log,) = other.glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for record in records:
        if "loss" in record:
            record["loss"] = 0.125
    log.write_text("\n".join(map(json.dumps, records)))
    (config,) = other.glob("*/tiny_*.py")
    text = config.read_text()
    assert "lr=0.001" in text
    config.write_text(text.replace("lr=0.001", "lr=0.5"))
    page = tmp_path / "page.html"
    assert tool("compare_runs", one, other, "--out", page) == 0
    out = capfd.readouterr().out
    assert re.search(r"other .*0\.125", out)
    found = text_of(page)
    assert "optim_wrapper.optimizer.lr 0.001 0.5" in found
    assert "model." not in found, "what is the same is left out"
    assert page.read_text().count("data:image/svg+xml") >= 4

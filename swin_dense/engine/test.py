"""Testing a checkpoint: metrics, predictions and pictures."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.runner import Runner

from swin_dense.config_tree import is_segmentation
from swin_dense.datasets.check import check_data
from swin_dense.engine.children import linked_processes
from swin_dense.engine.config.prepare import RunOptions, prepare_test
from swin_dense.engine.drawing import DrawHook, place_of
from swin_dense.engine.images import write_image
from swin_dense.engine.launch import init_distributed, on_first_process
from swin_dense.engine.paths import make_output_dir, output_errors
from swin_dense.engine.runner import build_runner, run_with_progress
from swin_dense.engine.terminal.console import notify_user, quiet_terminal
from swin_dense.engine.terminal.metrics import metrics_file, plain_values, show_metrics
from swin_dense.errors import UserError
from swin_dense.files import write_text

_PICKLES = (".pkl", ".pickle")


def evaluate(
    config: str | Path,
    checkpoint: str | Path,
    *,
    work_dir: str | Path | None = None,
    out: str | Path | None = None,
    show_dir: str | Path | None = None,
    score_thr: float = 0.3,
    tta: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    launcher: str = "none",
    device: str = "auto",
    tf32: bool = False,
) -> dict[str, float]:
    """Tests a checkpoint on the config's test data, as ``tools/test.py`` does; returns the metrics.

    Args:
        config: the config file, of mmdet's or mmseg's kind.
        checkpoint: weights of the config's model; a path or a URL, or a work dir for its
            ``best.pth``.
        work_dir: where log and metrics go (``work_dirs/<config name>``).
        out: where to save the predictions: a ``.pkl`` file, with the config beside it, or, for
            segmentation, a folder of label maps.
        show_dir: folder for pictures, ground truth beside prediction.
        score_thr: detections below this score are not drawn.
        tta: predict several views of each image and merge them.
        cfg_options: dotted config keys and their new values.
        data_root: folder that every data set and evaluator is pointed to.
        launcher: 'none', or what started the processes: 'pytorch', 'slurm', 'mpi'.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        tf32: multiply float32 matrices in TF32.

    Raises:
        UserError: something that was given is missing or does not fit.
    """
    is_pickle = str(out).endswith(_PICKLES)
    run = RunOptions(work_dir, data_root, cfg_options, launcher, device, tf32)
    outputs = {"--out": out, "--show-dir": show_dir}
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet_terminal())
        stack.enter_context(linked_processes())
        cfg = prepare_test(config, checkpoint, run, tta)
        init_distributed(cfg)
        stack.enter_context(output_errors({**outputs, "--work-dir": cfg.work_dir}))
        on_first_process(lambda: _check_inputs(cfg, out, is_pickle, show_dir))
        runner = build_runner(cfg)
        runner.exact_weights = True  # type: ignore[attr-defined]
        if is_pickle:
            dump = DumpLabelMaps if is_segmentation(cfg) else _dump_of_detections()
            runner.test_loop.evaluator.metrics.append(dump(str(out)))  # type: ignore[attr-defined]
        elif out is not None:
            runner.register_hook(LabelMapHook(out))
        if show_dir is not None:
            runner.register_hook(DrawHook(str(show_dir), score_thr))
        metrics = run_with_progress(runner, runner.test)
        _finish(runner, metrics, out, show_dir)
        return metrics
    raise AssertionError  # for type checkers: the stack suppresses nothing


def _check_inputs(
    cfg: Config, out: str | Path | None, is_pickle: bool, show_dir: str | Path | None
) -> None:
    for warning in check_data(cfg, splits=("test",)):
        notify_user(f"warning: {warning}")
    make_output_dir(cfg.work_dir, "--work-dir")
    if show_dir is not None:
        make_output_dir(show_dir, "--show-dir")
    if out is not None:
        if not is_pickle and not is_segmentation(cfg):
            raise UserError(f"--out {out}: a detector's predictions are saved in a .pkl file")
        make_output_dir(Path(out).parent if is_pickle else out, "--out")


class LabelMapHook(Hook):
    """Writes a segmentor's predictions to ``folder``, with the images' names and folders, as PNG.

    As in mmseg's own files, values count from 1 where those of the data set do.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Writes the label maps of a batch."""
        for sample in outputs or []:
            label_map = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            label_map = label_map + bool(sample.get("reduce_zero_label"))
            depth = np.uint8 if label_map.max() < 256 else np.uint16
            place = place_of(Path(sample.img_path), runner.test_dataloader.dataset)
            write_image(self.folder / place.with_suffix(".png"), label_map.astype(depth))


class DumpLabelMaps(DumpResults):
    """Saves the path and the label map of each predicted image, without the classes' scores."""

    def process(self, data_batch: Any, predictions: Any) -> None:
        """Collects a batch."""
        self.results += [
            {
                "img_path": sample.get("img_path"),
                "label_map": sample["pred_sem_seg"]["data"].squeeze(0).cpu().short().numpy(),
            }
            for sample in predictions
        ]


def _dump_of_detections() -> type[DumpResults]:
    from mmdet.evaluation import DumpDetResults  # segmentors do without mmdet

    return DumpDetResults


def _finish(runner: Runner, metrics: dict, out: Any, show_dir: Any) -> None:
    """Shows the metrics, and where everything is; the config is put beside the predictions."""
    if runner.rank == 0:
        if str(out).endswith(_PICKLES):  # tools/report.py needs the ground truth
            write_text(Path(out).with_suffix(".config.py"), runner.cfg.dump())
        show_metrics(metrics)
    runner.logger.info(f"metrics: {plain_values(metrics)}")
    notify_user(f"metrics: {metrics_file(runner)}")
    for name, path in (("predictions", out), ("pictures", show_dir)):
        if path is not None:
            notify_user(f"{name}: {path}")
    notify_user(f"log: {runner.logger.log_file}")

"""Testing a checkpoint: metrics, predictions and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from swin_dense import config_tree
from swin_dense.datasets.check import check_data
from swin_dense.engine.config.hardware import adapt_workers
from swin_dense.engine.config.load import is_segmentation, load_config
from swin_dense.engine.config.pretrained import drop_pretrained
from swin_dense.engine.config.tta import use_test_time_augmentation
from swin_dense.engine.device import choose_device
from swin_dense.engine.distributed import init_distributed, on_first_process
from swin_dense.engine.drawing import DrawHook
from swin_dense.engine.paths import check_checkpoint_path, make_output_dir
from swin_dense.engine.terminal.console import console, notify_user, quiet_terminal
from swin_dense.engine.terminal.metrics import metrics_file, metrics_table, plain_values
from swin_dense.engine.train import (
    add_terminal_hooks,
    build_runner,
    run_closing_bar,
)
from swin_dense.errors import UserError

_PICKLES = (".pkl", ".pickle")
# What only training needs; a test must not ask for it.
_TRAINING = (
    "train_dataloader",
    "train_cfg",
    "optim_wrapper",
    "param_scheduler",
    "val_dataloader",
    "val_cfg",
    "val_evaluator",
)


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
) -> dict[str, float]:
    """Tests a checkpoint on the config's test data, as ``tools/test.py`` does.

    Args:
        config: the config file, of mmdet's or mmseg's kind.
        checkpoint: weights of the config's model; a path or a URL.
        work_dir: where log and metrics go (``work_dirs/<config name>``).
        out: where to keep the predictions: a ``.pkl`` file, or, for segmentation, a folder of
            label maps.
        show_dir: folder for pictures, ground truth beside prediction.
        score_thr: detections below this score are not drawn.
        tta: predict several views of each image and merge them.
        cfg_options: dotted config keys and their new values.
        data_root: folder that every data set and evaluator is pointed to.
        launcher: 'none', or what started the processes: 'pytorch', 'slurm', 'mpi'.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.

    Returns:
        The metrics, by name.

    Raises:
        UserError: something that was given is missing or does not fit.
    """
    with quiet_terminal():
        check_checkpoint_path(checkpoint)
        cfg = load_config(config, cfg_options, data_root, work_dir=work_dir)
        _check_testable(cfg, config)
        cfg.launcher = launcher
        chosen = choose_device(device, launcher)
        cfg.device = chosen.type
        init_distributed(cfg, chosen)
        _prepare(cfg, str(checkpoint))
        on_first_process(lambda: _check_inputs(cfg, out, show_dir))
        if tta:
            use_test_time_augmentation(cfg)
        _keep_label_maps(cfg, out)
        runner = build_runner(cfg)
        runner.exact_weights = True  # type: ignore[attr-defined]
        _keep_predictions(runner, cfg, out)
        if show_dir is not None:
            runner.register_hook(DrawHook(str(show_dir), score_thr))
        metrics = run_closing_bar(runner, runner.test)
        _report(runner, metrics, out, show_dir)
        return metrics


def _check_testable(cfg: Config, path: str | Path) -> None:
    needed = ("model", "test_dataloader", "test_cfg", "test_evaluator")
    missing = [key for key in needed if not cfg.get(key)]
    if missing:
        raise UserError(f"{path} cannot be tested: it has no {', '.join(missing)}")


def _prepare(cfg: Config, checkpoint: str) -> None:
    """Leaves of the config what testing these weights needs."""
    drop_pretrained(cfg)
    for key in _TRAINING:
        cfg[key] = None
    cfg.resume, cfg.load_from = False, checkpoint
    adapt_workers(cfg)
    add_terminal_hooks(cfg)


def _check_inputs(cfg: Config, out: str | Path | None, show_dir: str | Path | None) -> None:
    for warning in check_data(cfg, splits=("test",)):
        notify_user(f"warning: {warning}")
    make_output_dir(cfg.work_dir, "--work-dir")
    if show_dir is not None:
        make_output_dir(show_dir, "--show-dir")
    if out is None:
        return
    is_pickle = str(out).endswith(_PICKLES)
    if not is_pickle and not is_segmentation(cfg):
        raise UserError(f"--out {out}: predictions are kept in a .pkl file, so name one")
    make_output_dir(Path(out).parent if is_pickle else out, "--out")


def _keep_label_maps(cfg: Config, out: str | Path | None) -> None:
    """Lets mmseg's metric write label maps (ADE20K's start at 1, as its server expects them)."""
    if out is None or str(out).endswith(_PICKLES):
        return
    for evaluator in config_tree.split_evaluators(cfg, "test"):
        evaluator["output_dir"] = str(out)


def _keep_predictions(runner: Runner, cfg: Config, out: str | Path | None) -> None:
    if out is None or not str(out).endswith(_PICKLES):
        return
    if is_segmentation(cfg):
        dump: DumpResults = DumpLabelMaps(str(out))
    else:
        from mmdet.evaluation import DumpDetResults

        dump = DumpDetResults(out_file_path=str(out))
    runner.test_loop.evaluator.metrics.append(dump)  # type: ignore[attr-defined]


class DumpLabelMaps(DumpResults):
    """Keeps the path and the label map of each predicted image, without all classes' scores."""

    def process(self, data_batch: Any, predictions: Any) -> None:
        """Takes over a batch."""
        self.results += [
            {
                "img_path": sample.get("img_path"),
                "label_map": sample["pred_sem_seg"]["data"].squeeze(0).cpu().short().numpy(),
            }
            for sample in predictions
        ]


def _report(runner: Runner, metrics: dict, out: Any, show_dir: Any) -> None:
    if runner.rank == 0:
        console().print(metrics_table(metrics))
    runner.logger.info(f"metrics: {plain_values(metrics)}")
    notify_user(f"metrics: {metrics_file(runner)}")
    for name, path in (("predictions", out), ("pictures", show_dir)):
        if path is not None:
            notify_user(f"{name}: {path}")
    notify_user(f"log: {getattr(runner, 'log_file', runner.log_dir)}")

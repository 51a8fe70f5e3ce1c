"""Whatever a config says that cannot be built is one line and status 2."""

from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BASES = {"detector": HERE / "tiny_detector.py", "segmentor": HERE / "tiny_segmentor.py"}

# Files that cannot be read, by name, and a word of the message.
FILES = {
    "itself.py": ("_base_ = './itself.py'", "inherits from itself"),
    "mutual.py": ("_base_ = './other.py'", "inherits from itself"),
    "orphan.py": ("_base_ = './parent.py'", "parent.py"),
    "number_as_base.py": ("_base_ = [3]", "number_as_base.py"),
    "unknown_package.py": ("_base_ = 'nowhere::model.py'", "unknown_package.py"),
    "bases_that_clash.py": ("_base_ = ['./one.py', './two.py']", "model"),
    "syntax.py": ("model = dict(", "not valid Python: line 1"),
    "null_bytes.py": ("model = 1\0", "null_bytes.py"),
    "latin_1.py": (b"model = '\xe9'", "latin_1.py"),
    "exits.py": ("import sys; sys.exit(0)", "exits.py cannot be read: SystemExit"),
    "exits_too.py": ("raise SystemExit('no')", "exits_too.py cannot be read: SystemExit: no"),
    "divides.py": ("model = 1 / 0", "ZeroDivisionError: division by zero"),
    "asserts.py": ("assert 2 < 1, 'two is more'", "AssertionError: two is more"),
    "opens.py": ("open('/none/at/all')", "/none/at/all"),
    "imports.py": ("import none_at_all", "No module named 'none_at_all'"),
    "raises.py": ("raise RuntimeError('no data')", "RuntimeError: no data"),
    "brackets.yaml": ("model: [1, 2", "brackets.yaml"),
    "tabs.yaml": ("model:\n\tkind: 1", "tabs.yaml"),
    "scalar.yaml": ("3", "scalar.yaml"),
    "empty.yaml": ("", "empty.yaml"),
    "cut.json": ('{"model": ', "cut.json"),
    "list.json": ("[1]", "list.json"),
    "empty.py": ("", "empty.py cannot be trained: it has no model"),
    "folder.py": (None, "folder.py"),
    "text.txt": ("model", "text.txt is not a config"),
}

# What a config changes of a tiny one, and a word of the message.
DETECTORS = {
    "model=3": "model",
    "model=dict(_delete_=True, type=3)": "type",
    "model=dict(_delete_=True, type='MaskRCN')": "'MaskRCN'",
    "model=dict(_delete_=True, backbone=dict(type='ResNet', depth=50))": "type",
    "model=dict(backbone=None)": "NoneType",
    "model=dict(backbone=dict(type='SwinTransfomer'))": "'SwinTransfomer'",
    "model=dict(backbone=dict(norm_cfg=dict(type='LayerNorm')))": "LayerNorm",
    "model=dict(backbone=dict(norm_cfg=3))": "norm_cfg",
    "model=dict(backbone=dict(depths=(1, 2)))": "strides needs one entry per stage",
    "model=dict(backbone=dict(num_heads=(0, 1, 1, 1)))": "num_heads",
    "model=dict(backbone=dict(embed_dims=-8))": "embed_dims",
    "model=dict(backbone=dict(embed_dims='eight'))": "embed_dims",
    "model=dict(backbone=dict(window_size=0))": "window_size",
    "model=dict(backbone=dict(window_size='7'))": "window_size",
    "model=dict(backbone=dict(drop_path_rate=2.0))": "drop_path_rate",
    "model=dict(backbone=dict(drop_path_rate='much'))": "drop_path_rate",
    "model=dict(backbone=dict(out_indices=(7,)))": "out_indices",
    "model=dict(neck=dict(type='FPM'))": "'FPM'",
    "model=dict(neck=dict(num_outs=1))": "FPN",
    "model=dict(neck=dict(in_channels=8))": "FPN",
    "model=dict(neck=dict(norm_cfg=dict(type='BNN')))": "BNN",
    "model=dict(rpn_head=dict(loss_cls=dict(type='CrossEntropy')))": "'CrossEntropy'",
    "model=dict(roi_head=dict(bbox_head=dict(num_classes='four')))": "num_classes",
    "model=dict(roi_head=dict(bbox_head=dict(num_classes=-5)))": "num_classes",
    "model=dict(roi_head=dict(bbox_roi_extractor=dict(roi_layer=dict(type='Crop'))))": "Crop",
    "model=dict(train_cfg=dict(rpn=dict(assigner=dict(type='Best'))))": "'Best'",
    "model=dict(init_cfg=3)": "initialized by its init_cfg",
    "model=dict(data_preprocessor=dict(rgb_to_bgr=True))": "rgb",
    "train_dataloader=3": "train_dataloader",
    "train_dataloader=dict(batch_size=0)": "batch_size",
    "train_dataloader=dict(batch_size=-1)": "batch_size",
    "train_dataloader=dict(batch_size='two')": "batch_size",
    "train_dataloader=dict(num_workers=-1)": "num_workers",
    "train_dataloader=dict(num_workers='two')": "num_workers",
    "train_dataloader=dict(dataset=3)": "dataset",
    "train_dataloader=dict(dataset=dict(type='CoccoDataset'))": "CoccoDataset",
    "train_dataloader=dict(dataset=dict(ann_file=3))": "ann_file",
    "train_dataloader=dict(dataset=dict(data_prefix=3))": "data_prefix",
    "train_dataloader=dict(dataset=dict(filter_cfg=3))": "filter_cfg",
    "train_dataloader=dict(dataset=dict(indices='all'))": "indices",
    "train_dataloader=dict(dataset=dict(metainfo=3))": "metainfo",
    "train_dataloader=dict(dataset=dict(metainfo=dict(classes=3)))": "'int' object is not iterable",
    "train_dataloader=dict(dataset=dict(pipeline=3))": "pipeline",
    "train_dataloader=dict(dataset=dict(pipeline=[3]))": "pipeline",
    "train_dataloader=dict(dataset=dict(pipeline=[dict(prob=1)]))": "type",
    "train_dataloader=dict(dataset=dict(pipeline=[dict(type='Flip')]))": "'Flip'",
    "train_dataloader=dict(dataset=dict(pipeline=[dict(type='RandomFlip', prob=7)]))": "RandomFlip",
    "train_dataloader=dict(sampler=dict(type='Sampler'))": "'Sampler'",
    "train_dataloader=dict(sampler=3)": "sampler",
    "train_dataloader=dict(collate_fn=dict(type='none'))": "dataloader",
    "train_dataloader=dict(num_workers=1, prefetch_factor=0)": "prefetch_factor",
    "val_dataloader=dict(batch_size=0)": "batch_size",
    "val_dataloader=None": "val_",
    "val_evaluator=3": "evaluator",
    "val_evaluator=dict(type='CocoMetrics')": "CocoMetrics",
    "val_evaluator=dict(metric='boxes')": "boxes",
    "val_evaluator=dict(ann_file='none.json')": "none.json",
    "optim_wrapper=3": "optim_wrapper",
    "optim_wrapper=dict(type='Wrapper')": "'Wrapper'",
    "optim_wrapper=dict(optimizer=None)": "optimizer",
    "optim_wrapper=dict(optimizer=dict(type='AdamX'))": "AdamX",
    "optim_wrapper=dict(optimizer=dict(lr=-1))": "learning rate: -1",
    "optim_wrapper=dict(optimizer=dict(lr='fast'))": "AdamW",
    "optim_wrapper=dict(optimizer=dict(lr=float('nan')))": "lr",
    "optim_wrapper=dict(optimizer=dict(betas=0.9))": "AdamW",
    "optim_wrapper=dict(optimizer=dict(weight_decay=-1))": "weight_decay",
    "optim_wrapper=dict(optimizer=dict(momentum=0.9))": "momentum",
    "optim_wrapper=dict(accumulative_counts=0)": "accumulative_counts",
    "optim_wrapper=dict(accumulative_counts='two')": "accumulative_counts",
    "optim_wrapper=dict(clip_grad=3)": "clip_grad",
    "optim_wrapper=dict(paramwise_cfg=3)": "paramwise_cfg",
    "optim_wrapper=dict(paramwise_cfg=dict(custom_keys=3))": "custom_keys",
    "optim_wrapper=dict(constructor='Own')": "'Own'",
    "param_scheduler=3": "param_scheduler",
    "param_scheduler=dict(type='StepRL')": "'StepRL'",
    "param_scheduler=dict(type='MultiStepLR')": "milestones",
    "param_scheduler=dict(type='LinearLR', begin=9, end=3)": "LinearLR",
    "param_scheduler=dict(type='LinearLR', start_factor=-1)": "LinearLR",
    "param_scheduler=dict(type='LinearLR', end='soon')": "LinearLR",
    "train_cfg=3": "train_cfg",
    "train_cfg=dict(type='Loop')": "'Loop'",
    "train_cfg=dict(max_epochs=0)": "max_epochs",
    "train_cfg=dict(max_epochs=-1)": "max_epochs",
    "train_cfg=dict(max_epochs=1.5)": "max_epochs",
    "train_cfg=dict(max_epochs='three')": "max_epochs",
    "train_cfg=dict(val_interval=0)": "val_interval",
    "train_cfg=dict(max_iters=3)": "max_iters",
    "val_cfg=dict(type='Loop')": "'Loop'",
    "default_hooks=3": "default_hooks",
    "default_hooks=dict(checkpoint=3)": "checkpoint",
    "default_hooks=dict(checkpoint=dict(interval='often'))": "interval",
    "default_hooks=dict(checkpoint=dict(save_best=3))": "save_best",
    "default_hooks=dict(checkpoint=dict(max_keep_ckpts='some'))": "max_keep_ckpts",
    "default_hooks=dict(logger=dict(interval=0))": "interval",
    "default_hooks=dict(timer=dict(priority='VERY'))": "VERY",
    "custom_hooks=3": "custom_hooks",
    "custom_hooks=[3]": "custom_hooks",
    "custom_hooks=[dict(type='NoHook')]": "'NoHook'",
    "custom_hooks=[dict(type='EMAHook', momentum=7)]": "momentum",
    "custom_hooks=[dict(type='EMAHook', ema_type='None')]": "'None'",
    "custom_imports=dict(imports=['none_at_all'], allow_failed_imports=False)": "none_at_all",
    "default_scope='nothing'": "'CocoDataset'",
    "default_scope=3": "default_scope",
    "env_cfg=3": "env_cfg",
    "randomness=dict(seed='x')": "seed",
    "randomness=3": "randomness",
    "visualizer=dict(type='None')": "'None'",
    "visualizer=dict(vis_backends=[dict(type='None')])": "'None'",
    "log_level='LOUD'": "LOUD",
    "log_processor=dict(window_size='x')": "window_size",
    "load_from=3": "load_from",
    "auto_scale_lr=3": "auto_scale_lr",
    "auto_scale_lr=dict(base_batch_size=0, enable=True)": "base_batch_size",
    "runner_type='Own'": "'Own'",
    "own_data=3": "own_data",
    "work_dir=3": "work_dir",
}
SEGMENTORS = {
    "train_cfg=dict(max_iters=0)": "max_iters",
    "train_cfg=dict(max_iters='ten')": "max_iters",
    "train_cfg=dict(val_interval=-1)": "val_interval",
    "model=dict(decode_head=dict(num_classes=0))": "num_classes",
    "model=dict(decode_head=dict(in_channels=[8]))": "UPerHead",
    "model=dict(decode_head=dict(loss_decode=dict(type='Loss')))": "'Loss'",
}


@pytest.fixture
def flags(shapes_root, tmp_path) -> list:
    return ["--from-scratch", "--data-root", shapes_root, "--work-dir", tmp_path / "w"]


@pytest.mark.parametrize(("name", "case"), FILES.items(), ids=FILES)
def test_files(failure, tmp_path, name, case):
    content, words = case
    Path("other.py").write_text("_base_ = './mutual.py'")
    Path("one.py").write_text("model = 1")
    Path("two.py").write_text("model = 2")
    if content is None:
        Path(name).mkdir()
    else:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert words in failure("train", name)


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        *(("detector", change, words) for change, words in DETECTORS.items()),
        *(("segmentor", change, words) for change, words in SEGMENTORS.items()),
    ],
)
def test_values(failure: Callable, flags, base, change, words):
    Path("config.py").write_text(f"_base_ = {str(BASES[base])!r}\n{change}\n")
    assert words in failure("train", "config.py", *flags)

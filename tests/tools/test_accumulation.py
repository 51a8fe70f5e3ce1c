"""``tools/train.py --accumulate``."""

from pathlib import Path

import torch

SEGMENTOR = Path(__file__).parent / "tiny_segmentor.py"
# One step of plain gradient descent, so that weights show gradients. Nothing is drawn in forward
# and no statistics are of a batch, so that the loss is a mean over images.
OPTIONS = ["optim_wrapper.optimizer._delete_=True", "optim_wrapper.optimizer.type=SGD"]
OPTIONS += ["optim_wrapper.optimizer.lr=1.0", "model.backbone.drop_path_rate=0"]
for head in ("decode_head", "auxiliary_head"):
    OPTIONS += [f"model.{head}.dropout_ratio=0", f"model.{head}.norm_cfg.type=GN"]
    OPTIONS += [f"model.{head}.norm_cfg.num_groups=4"]


def test_batches_that_are_added_up_are_one_large_batch(tool, shapes_root, tmp_path):
    def weights(batch_size: int, steps: int, *flags) -> dict[str, torch.Tensor]:
        work_dir = tmp_path / f"{batch_size}x{steps}"
        words = ["--data-root", shapes_root, "--work-dir", work_dir, "--from-scratch", "--seed", 0]
        settings = [f"train_dataloader.batch_size={batch_size}", f"train_cfg.max_iters={steps}"]
        settings += ["train_cfg.val_interval=9"]
        assert tool("train", SEGMENTOR, *words, *flags, "--cfg-options", *OPTIONS, *settings) == 0
        return torch.load(work_dir / "last.pth", weights_only=True)["state_dict"]

    def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return max((a[name] - b[name]).abs().max().item() for name in a)

    large = weights(4, 1)
    assert distance(weights(2, 2, "--accumulate", 2), large) < 1e-5
    assert distance(weights(2, 1), large) > 1e-2, "other images have other gradients"

"""The RepPoints V2 head: losses, predictions and edge cases."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import MODELS
from mmengine.structures import InstanceData

from swin_dense.errors import UserError
from swin_dense.models.heads import RepPointsV2Head
from swin_dense.models.heads.reppoints_v2_head import move_to_corners
from swin_dense.models.heads.reppoints_v2_layers import (
    RepPointsOutputs,
    corner_pool,
)

HEIGHT, WIDTH = 96, 128
STRIDES = (8, 16, 32, 64, 128)
BOXES = torch.tensor([[10.0, 12, 70, 60], [40, 30, 120, 90], [5, 5, 20, 25]])
LABELS = torch.tensor([0, 2, 2])
MASKS = {"type": "swin_dense.ConditionalMaskHead", "in_channels": 32, "channels": 32}


def build(masks: bool = False, **options) -> RepPointsV2Head:
    head = MODELS.build(
        {
            "type": "swin_dense.RepPointsV2Head",
            "num_classes": 3,
            **dict.fromkeys(("in_channels", "feat_channels", "point_feat_channels"), 32),
            "stacked_convs": 1,
            "corner_dim": 32,
            "norm_cfg": {"type": "GN", "num_groups": 8},
            "mask_head": MASKS if masks else None,
            **options,
        }
    )
    head.init_weights()
    # Boxes of a few strides around each point, which random weights would not give.
    head.reppoints_pts_init_out.bias.data[:4] = torch.tensor([-1.5, -1.5, 1.5, 1.5])
    return head


def features(batch: int = 1) -> list[torch.Tensor]:
    return [torch.randn(batch, 32, -(-HEIGHT // s), -(-WIDTH // s)) for s in STRIDES]


def sample(count: int = 3, size: tuple[int, int] = (HEIGHT, WIDTH), masks: bool = True):
    drawn = np.zeros((count, *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(drawn, BOXES.int().tolist(), strict=False):
        mask[y1:y2, x1:x2] = 1
    truth = InstanceData(bboxes=BOXES[:count], labels=LABELS[:count])
    if masks:
        truth.masks = BitmapMasks(drawn, *size)
    found = DetDataSample(gt_instances=truth)
    found.set_metainfo(
        {"img_shape": size, "pad_shape": size, "ori_shape": (48, 64), "scale_factor": (2.0, 2.0)}
    )
    return found


@pytest.mark.parametrize("masks", [False, True])
def test_every_parameter_gets_a_gradient(masks):
    head = build(masks)
    losses = head.loss(features(2), [sample(3), sample(1)])
    assert set(losses) == {
        "loss_cls",
        "loss_pts_init",
        "loss_pts_refine",
        "loss_heatmap",
        "loss_offset",
        "loss_sem",
        *(["loss_mask_1", "loss_mask_2"] if masks else []),
    }
    sum(losses.values()).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("masks", [False, True])
def test_images_without_objects_train_the_background(masks):
    head = build(masks)
    losses = head.loss(features(2), [sample(0), sample(0)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_pts_init"] == losses["loss_pts_refine"] == losses["loss_offset"] == 0
    assert losses["loss_cls"] > 0
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


def test_crowds_are_background():
    """As in the official recipe."""
    head, x = build(), features()
    crowded = sample(2)
    crowded.ignored_instances = InstanceData(bboxes=BOXES[2:], labels=LABELS[2:])
    expected, found = head.loss(x, [sample(2)]), head.loss(x, [crowded])
    assert {k: v.item() for k, v in found.items()} == {k: v.item() for k, v in expected.items()}


def test_padding_is_excluded_from_the_loss():
    head = build()
    small = sample(1, size=(64, 96))
    losses = head.loss(features(), [small])
    outputs: RepPointsOutputs = head(features())
    outside = [x.requires_grad_() for x in map(torch.zeros_like, outputs.scores)]
    head.forward = lambda _: outputs._replace(scores=outside)
    head.loss(features(), [small])["loss_cls"].backward()
    finest = outside[0].grad[0].abs().sum(0)
    assert finest[:8, :12].all()
    assert not finest[8:].any()
    assert not finest[:, 12:].any()
    assert losses["loss_cls"].isfinite()


@pytest.mark.parametrize("masks", [False, True])
def test_mixed_precision_trains_and_predicts(masks):
    head = build(masks)
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.loss(features(2), [sample(3), sample(0)])
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        assert all(p.grad.isfinite().all() for p in head.parameters())
        head.eval().test_cfg = {"score_thr": 0.0, "max_per_img": 5}
        with torch.no_grad():
            (found,) = head.predict(features(), [sample()])
    assert found.bboxes.dtype == found.scores.dtype == torch.float32
    assert len(found) == 5


def test_missing_masks_raise():
    with pytest.raises(UserError, match=r"model\.bbox_head\.mask_head=None"):
        build(masks=True).loss(features(), [sample(masks=False)])


def fake_outputs(head: RepPointsV2Head, level: int, row: int, column: int, box: torch.Tensor):
    """Outputs in which one point predicts class 1 in a box, and no point a corner."""
    outputs = head(features())
    outputs = RepPointsOutputs(*([torch.zeros_like(x) for x in part] for part in outputs if part))
    for scores in outputs.scores:
        scores -= 9
    outputs.scores[level][0, 1, row, column] = 2.0
    here = torch.tensor([column, row, column, row]) * STRIDES[level]
    x1, y1, x2, y2 = (box - here) / STRIDES[level]
    outputs.points_refine[level][0, :4, row, column] = torch.tensor([y1, x1, y2, x2])
    return outputs


def predict(head: RepPointsV2Head, outputs: RepPointsOutputs, **options) -> InstanceData:
    head.forward = lambda _: outputs
    with torch.no_grad():
        (found,) = head.eval().predict(features(), [sample()], **options)
    return found


def test_boxes_of_the_finest_level_are_not_refined():
    head, box = build(), torch.tensor([10.5, 20.25, 30, 44])
    found = predict(head, fake_outputs(head, 0, 3, 2, box))
    torch.testing.assert_close(found.bboxes, box[None])
    assert found.labels.tolist() == [1]
    torch.testing.assert_close(found.scores, torch.tensor([2.0]).sigmoid())
    assert set(found.keys()) == {"bboxes", "labels", "scores"}


@pytest.mark.parametrize(("level", "finer"), [(1, 0), (2, 0), (3, 1)])
def test_boxes_of_coarser_levels_are_refined_by_finer_corners(level, finer):
    head = build()
    box = torch.tensor([33.0, 20, 110, 90])
    outputs = fake_outputs(head, level, 0, 1, box)
    stride = STRIDES[finer]
    outputs.corner_scores[finer][0, 0, 20 // stride, 33 // stride + 1] = 3.0
    outputs.corner_offsets[finer][0, :2, 20 // stride, 33 // stride + 1] = 0.25
    outputs.corner_scores[finer][0, 1, 90 // stride, 110 // stride] = 3.0
    outputs.corner_offsets[finer][0, 2:, 90 // stride, 110 // stride] = -0.5
    found = predict(head, outputs)
    expected = torch.tensor(
        [
            33 // stride + 1.25,
            20 // stride + 0.25,
            110 // stride - 0.5,
            90 // stride - 0.5,
        ]
    )
    torch.testing.assert_close(found.bboxes, expected[None] * stride)


def test_boxes_are_clipped_and_rescaled_to_the_original_image():
    head = build()
    outputs = fake_outputs(head, 0, 0, 0, torch.tensor([-9.0, 20, 300, 40]))
    torch.testing.assert_close(predict(head, outputs).bboxes, torch.tensor([[0.0, 20, WIDTH, 40]]))
    torch.testing.assert_close(
        predict(head, outputs, rescale=True).bboxes, torch.tensor([[0.0, 10, WIDTH / 2, 20]])
    )


def test_duplicates_of_a_class_are_suppressed():
    head, box = build(), torch.tensor([10.0, 20, 60, 70])
    outputs = fake_outputs(head, 0, 3, 2, box)
    again = fake_outputs(head, 0, 4, 3, box + 1)
    outputs.points_refine[0][:] += again.points_refine[0]
    outputs.scores[0][0, 1, 4, 3] = 1.0  # the same class: a duplicate
    outputs.scores[0][0, 0, 4, 3] = 0.5  # another class: another object
    found = predict(head, outputs)
    assert found.labels.tolist() == [1, 0]
    head.test_cfg = {"nms": {"type": "nms", "iou_threshold": 1.0}}
    assert predict(head, outputs).labels.tolist() == [1, 1, 0]
    head.test_cfg["max_per_img"] = 1
    assert predict(head, outputs).labels.tolist() == [1]


@pytest.mark.parametrize("masks", [False, True])
def test_empty_boxes_and_images_without_detections(masks):
    head = build(masks)
    outputs = fake_outputs(head, 0, 3, 2, torch.tensor([30.0, 20, 30, 44]))
    found = predict(head, outputs, rescale=True)
    assert found.bboxes.shape == (0, 4)
    if masks:
        assert found.masks.shape == (0, 48, 64)


def test_masks_are_in_the_order_of_detections():
    head = build(masks=True, test_cfg={"score_thr": 0.0, "max_per_img": 7})
    batch = features(2)
    with torch.no_grad():
        both = head.eval().predict(batch, [sample(), sample()], rescale=True)
        (second,) = head.predict([x[1:] for x in batch], [sample()], rescale=True)
    assert both[1].masks.shape == (7, 48, 64)
    assert both[1].masks.dtype == torch.bool
    # A batch is computed in another order, which may change the rounding of a score.
    torch.testing.assert_close(both[1].bboxes, second.bboxes, atol=1e-4, rtol=0)
    assert (both[1].masks != second.masks).float().mean() < 1e-3


def test_number_of_points_is_an_odd_square():
    with pytest.raises(ValueError, match="num_points is 16"):
        build(num_points=16)


def test_untrained_head_gives_low_scores():
    head = build()
    with torch.no_grad():
        outputs = head(features())
    for part in (outputs.scores, outputs.corner_scores, outputs.foreground):
        assert part[0].sigmoid().mean() == pytest.approx(0.01, abs=0.005)


def test_overfits_one_image():
    torch.manual_seed(0)
    head, x = build(masks=True), features()
    truth = [sample()]
    optimizer = torch.optim.AdamW(head.parameters(), 5e-3)
    history = []
    for _ in range(18):
        optimizer.zero_grad()
        loss = sum(head.loss(x, truth).values())
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0] / 2


def test_boxes_are_refined_to_the_best_corner_nearby():
    scores = torch.zeros(2, 6, 8)
    offsets = torch.zeros(4, 6, 8)
    scores[0, 2, 3] = 5  # top left corner at column 3, row 2
    scores[0, 5, 7] = 9  # higher, but far away
    scores[1, 4, 6] = 5
    offsets[:2, 2, 3] = torch.tensor([0.25, -0.5])
    offsets[2:, 4, 6] = torch.tensor([-0.25, 0.125])
    boxes = torch.tensor([[23.0, 15, 55, 39], [24.0, 16, 48, 32], [31.9, 8.1, 41, 25]])
    moved = move_to_corners(boxes[None], scores[None], offsets[None], stride=8)[0]
    corner = [3.25 * 8, 1.5 * 8, 5.75 * 8, 4.125 * 8]
    assert moved.tolist() == [corner] * 3
    none = move_to_corners(boxes[None, :0], scores[None], offsets[None], stride=8)
    assert none.shape == (1, 0, 4)


def test_each_image_of_a_batch_has_corners_of_its_own():
    boxes = torch.rand(3, 5, 4) * 40
    scores, offsets = torch.randn(3, 2, 6, 8), torch.randn(3, 4, 6, 8)
    moved = move_to_corners(boxes, scores, offsets, stride=8)
    for i in range(3):
        part = slice(i, i + 1)
        assert torch.equal(
            moved[part], move_to_corners(boxes[part], scores[part], offsets[part], 8)
        )


def test_boxes_are_refined_to_the_grid_without_predicted_corners():
    boxes = torch.tensor([[[9.0, 3, 100, 100]]])
    moved = move_to_corners(boxes, torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, 4), stride=8)[0]
    assert moved[0, :2].tolist() == [8, 0]
    assert moved[0, 2:].tolist() == [16, 16]  # the last 2 x 2 points: those at 16 and 24


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_boxes_are_refined_on_the_smallest_feature_maps(size):
    boxes = torch.tensor([[[0.0, 0, 8 * size[1], 8 * size[0]]]])
    scores, offsets = torch.randn(1, 2, *size), torch.zeros(1, 4, *size)
    moved = move_to_corners(boxes, scores, offsets, stride=8)
    limit = torch.tensor([size[1] - 1, size[0] - 1] * 2) * 8
    assert (moved >= 0).all()
    assert (moved <= limit).all()


def test_corner_pooling_pools_over_the_box():
    x = torch.randn(2, 3, 5, 6)
    down, right = (corner_pool(x, dim, top_left=True) for dim in (2, 3))
    up, left = (corner_pool(x, dim, top_left=False) for dim in (2, 3))
    for row in range(5):
        for column in range(6):
            assert torch.equal(down[..., row, column], x[..., row:, column].amax(-1))
            assert torch.equal(right[..., row, column], x[..., row, column:].amax(-1))
            assert torch.equal(up[..., row, column], x[..., : row + 1, column].amax(-1))
            assert torch.equal(left[..., row, column], x[..., row, : column + 1].amax(-1))

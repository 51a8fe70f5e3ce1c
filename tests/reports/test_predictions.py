"""Kept predictions: what is written is read, and no file runs code."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from swin_dense.errors import UserError
from swin_dense.reports.predictions import (
    MOST_DETECTIONS,
    KeepPredictions,
    as_record,
    label_map_of,
    read_predictions,
    write_predictions,
)


def make_sample(number: int, image: int) -> dict:
    """What an evaluator gets of a detector."""
    masks = torch.zeros(number, 6, 9, dtype=torch.bool)
    masks[:, 1:4, 2:7] = True
    instances = {
        "bboxes": torch.rand(number, 4),
        "scores": torch.linspace(0, 1, number),
        "labels": torch.arange(number) % 3,
        "masks": masks,
    }
    return {"img_id": image, "img_path": f"{image}.jpg", "pred_instances": instances}


def assert_equal(found: list[dict], expected: list[dict]) -> None:
    assert [one.keys() for one in found] == [one.keys() for one in expected]
    for a, b in zip(found, expected, strict=True):
        assert (a["img_id"], a["img_path"]) == (b["img_id"], b["img_path"])
        for key in ("bboxes", "scores", "labels"):
            assert (a[key] == b[key]).all()
        for x, y in zip(a["masks"], b["masks"], strict=True):
            assert (rle.decode(x) == rle.decode(y)).all()


def test_detections_are_kept(tmp_path: Path):
    records = [as_record(make_sample(number, i)) for i, number in enumerate((3, 0, 130, 1))]
    assert [len(one["scores"]) for one in records] == [3, 0, MOST_DETECTIONS, 1]
    assert records[2]["scores"][0] == 1  # the highest ones
    write_predictions(tmp_path / "a.npz", records)
    assert_equal(read_predictions(tmp_path / "a.npz"), records)


def test_label_maps_are_kept(tmp_path: Path):
    maps = [np.arange(48).reshape(6, 8), np.arange(299, 305).reshape(2, 3)]
    samples = [
        {"img_path": f"{i}.jpg", "pred_sem_seg": {"data": torch.tensor(one)[None]}}
        for i, one in enumerate(maps)
    ]
    write_predictions(tmp_path / "a.npz", [as_record(one) for one in samples])
    found = read_predictions(tmp_path / "a.npz")
    assert [one["img_path"] for one in found] == ["0.jpg", "1.jpg"]
    for record, expected in zip(found, maps, strict=True):
        assert (label_map_of(record) == expected).all()


@pytest.mark.parametrize("protocol", [2, 4])
def test_dumps_are_read(tmp_path: Path, protocol: int):
    sample = make_sample(4, 8)
    masks = sample["pred_instances"]["masks"].numpy().astype(np.uint8)
    encoded = [rle.encode(np.asfortranarray(mask)) for mask in masks]
    dumped = {**sample, "pred_instances": {**sample["pred_instances"], "masks": encoded}}
    dumped |= {"scale_factor": (1.0, np.float64(2)), "ori_shape": (6, 9)}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps([dumped], protocol))
    assert_equal(read_predictions(path), [as_record(sample)])


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize(
    "content", [pickle.dumps([Harmful()]), pickle.dumps(4), b"", b"text"], ids=range(4)
)
def test_other_files_are_user_errors_and_run_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    Path("a.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pkl is no \.pkl file of tools/test\.py"):
        read_predictions("a.pkl")
    assert not Path("harm").exists()
    with pytest.raises(UserError, match=r"no predictions at b\.pkl"):
        read_predictions("b.pkl")


def test_the_last_wanted_evaluation_is_kept(tmp_path: Path):
    """Of a teacher and its student, who are evaluated one after the other, only one is wanted."""
    wanted, errors = [], []
    keep = KeepPredictions(tmp_path / "a.npz", lambda: wanted[-1], errors.append)
    for image, is_wanted in ((1, True), (2, False)):
        wanted.append(is_wanted)
        keep.process({}, [make_sample(2, image)])
        assert keep.evaluate(1) == {}
    assert [one["img_id"] for one in read_predictions(tmp_path / "a.npz")] == [1]
    keep.process({}, [{"img_path": "no predictions"}])
    assert keep.evaluate(1) == {}
    assert len(errors) == 1

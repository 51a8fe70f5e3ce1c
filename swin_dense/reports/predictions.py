"""The predictions of an evaluation: kept in a file from which nothing is executed.

A record is what a model predicts for an image, as a dictionary: ``img_path`` and

- of a detector ``img_id``, ``bboxes`` (n, 4) as left, top, right, bottom in pixels, ``scores``
  (n,), ``labels`` (n,) and, if it has masks, ``masks``, n COCO run-length encodings;
- of a segmentor ``label_map`` (H, W), or its PNG file as bytes.
"""

import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from numpy.typing import NDArray

from swin_dense.checkpoints.pickles import read_pickled
from swin_dense.errors import UserError
from swin_dense.files import replace_file

MOST_DETECTIONS = 100  # of an image, as COCO counts them
Record = dict[str, Any]


class KeepPredictions(BaseMetric):
    """Keeps the predictions of the last evaluation in a file; it measures nothing.

    It is added to the metrics of an evaluator, which collects from all processes.

    Args:
        path: the file.
        is_wanted: whether to keep this evaluation, when it is over.
        on_error: what goes wrong is told to it, and ends neither evaluation nor training.
    """

    default_prefix = "kept"

    def __init__(
        self, path: Path, is_wanted: Callable[[], bool], on_error: Callable[[Exception], None]
    ) -> None:
        super().__init__()
        self.path, self._is_wanted, self._on_error = path, is_wanted, on_error

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Collects a batch."""
        for sample in data_samples:
            try:
                self.results.append(as_record(sample))
            except Exception as error:
                self.results.append({})  # the number of results has to be that of the images
                self._on_error(error)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Writes the file; there are no metrics."""
        try:
            if self._is_wanted():
                write_predictions(self.path, [record for record in results if record])
        except Exception as error:
            self._on_error(error)
        return {}


def as_record(sample: Mapping[str, Any]) -> Record:
    """The record of a data sample of mmdet or mmseg as evaluators get it, or as it was dumped."""
    record: Record = {"img_path": str(sample.get("img_path", ""))}
    if "label_map" in sample:  # of tools/test.py --out
        return {**record, "label_map": np.asarray(sample["label_map"])}
    if "pred_sem_seg" in sample and "pred_instances" not in sample:
        label_map = _array(sample["pred_sem_seg"]["data"]).squeeze(0)
        return {**record, "label_map": _png(label_map)}
    found = sample["pred_instances"]
    scores = _array(found["scores"])
    best = np.argsort(-scores, kind="stable")[:MOST_DETECTIONS]
    record |= {
        "img_id": sample["img_id"],
        "bboxes": _array(found["bboxes"])[best].astype(np.float32),
        "scores": scores[best].astype(np.float32),
        "labels": _array(found["labels"])[best].astype(np.int32),
    }
    if (masks := found.get("masks")) is not None:
        chosen = [masks[i] for i in best.tolist()]
        record["masks"] = [m if isinstance(m, dict) else _encode(_array(m)) for m in chosen]
    return record


def label_map_of(record: Record) -> NDArray:
    """The label map (H, W) of a record."""
    kept = record["label_map"]
    if not isinstance(kept, bytes):
        return np.asarray(kept)
    return np.asarray(cv2.imdecode(np.frombuffer(kept, np.uint8), cv2.IMREAD_UNCHANGED))


def write_predictions(path: str | Path, records: Sequence[Record]) -> None:
    """Writes records to a file that :func:`read_predictions` reads: numpy's npz."""
    heads = [{key: one[key] for key in ("img_path", "img_id") if key in one} for one in records]
    arrays: dict[str, NDArray] = {}
    if records and "label_map" in records[0]:
        maps = [_as_bytes(one["label_map"]) for one in records]
        arrays |= _packed("label_maps", maps)
    elif records:
        arrays["counts"] = np.array([len(one["scores"]) for one in records])
        for key in ("bboxes", "scores", "labels"):
            arrays[key] = np.concatenate([one[key] for one in records])
        if all("masks" in one for one in records):
            masks = [mask for one in records for mask in one["masks"]]
            counts = [m["counts"] for m in masks]
            encoded = [c.encode() if isinstance(c, str) else c for c in counts]
            arrays |= _packed("masks", encoded)
            arrays["mask_sizes"] = np.array([m["size"] for m in masks]).reshape(-1, 2)
    with replace_file(path) as file:
        arrays["heads"] = np.frombuffer(json.dumps(heads).encode(), np.uint8)
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_predictions(path: str | Path) -> list[Record]:
    """The records of a file of :func:`write_predictions`, or of ``tools/test.py --out FILE.pkl``.

    Raises:
        UserError: there is no such file, or it is of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no predictions at {path}: give the .pkl file of tools/test.py --out")
    try:
        with path.open("rb") as file:
            if path.suffix == ".npz":
                return _read_npz(file)
            return [as_record(sample) for sample in _DumpReader(file).load()]
    except Exception as error:  # almost any, for arbitrary bytes
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is no .pkl file of tools/test.py --out ({type(error).__name__}: {reason}): "
            "write it again"
        ) from error


def _read_npz(file: Any) -> list[Record]:
    with np.load(file, allow_pickle=False) as arrays:
        content = {key: arrays[key] for key in arrays.files}
    records: list[Record] = json.loads(content["heads"].tobytes())
    if "label_maps" in content:
        for record, label_map in zip(records, _unpacked("label_maps", content), strict=True):
            record["label_map"] = label_map
        return records
    if not records:
        return records
    ends = np.cumsum(content["counts"])[:-1]
    for key in ("bboxes", "scores", "labels"):
        for record, part in zip(records, np.split(content[key], ends), strict=True):
            record[key] = part
    if "masks" in content:
        sizes = content["mask_sizes"].tolist()
        masks = [
            {"size": size, "counts": counts}
            for size, counts in zip(sizes, _unpacked("masks", content), strict=True)
        ]
        for record, end in zip(records, np.cumsum(content["counts"]).tolist(), strict=True):
            record["masks"] = masks[end - len(record["scores"]) : end]
    return records


def _packed(name: str, parts: Sequence[bytes]) -> dict[str, NDArray]:
    return {
        name: np.frombuffer(b"".join(parts), np.uint8),
        f"{name}_lengths": np.array([len(part) for part in parts], np.int64),
    }


def _unpacked(name: str, content: Mapping[str, NDArray]) -> list[bytes]:
    data, ends = content[name].tobytes(), np.cumsum(content[f"{name}_lengths"]).tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _array(value: Any) -> NDArray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _encode(mask: NDArray) -> dict[str, Any]:
    from pycocotools import mask as rle

    return rle.encode(np.asfortranarray(mask.astype(np.uint8)))


def _png(label_map: NDArray) -> bytes:
    depth = np.uint8 if label_map.max(initial=0) < 256 else np.uint16
    return cv2.imencode(".png", label_map.astype(depth))[1].tobytes()


def _as_bytes(label_map: NDArray | bytes) -> bytes:
    return label_map if isinstance(label_map, bytes) else _png(label_map)


class _DumpReader(pickle.Unpickler):
    """Reads what mmengine's DumpResults wrote: plain data, arrays and tensors, and runs no code."""

    def find_class(self, module: str, name: str) -> Any:
        found = _known().get((module.partition(".")[0], name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return found


def _known() -> dict[tuple[str, str], Any]:
    """What makes arrays, tensors and dictionaries, by package and name."""
    return {
        ("torch", "_load_from_bytes"): _flat_tensor,
        ("torch", "_rebuild_tensor_v2"): _tensor,
        ("numpy", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy", "scalar"): np.float64(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encoded,
    }


def _encoded(text: str, encoding: str) -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "utf-8")


def _flat_tensor(data: bytes) -> torch.Tensor:
    return read_pickled(io.BytesIO(data), torch.device("cpu"), {})


def _tensor(
    storage: torch.Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
) -> torch.Tensor:
    return torch.as_strided(storage, size, stride, offset)

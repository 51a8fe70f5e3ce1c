"""Hypothesis strategies that write bad files: checkpoints, annotations, images, configs."""

import io
import json
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from bad_bytes import NUMBERS, PLAIN, TEXTS, changed, damaged, deep
from hypothesis import strategies as st
from PIL import Image

SIDE = 64
WHOLE = "whole.pth"  # beside a damaged file that has checksums: what it was before


@dataclass(frozen=True)
class Originals:
    """What is damaged: files of a tiny training, read once.

    Attributes:
        folder: where a file of that name is created if code of an input is run.
        checkpoints: by model.
        annotations: of the detector's training images.
        configs: by model.
    """

    canary: Path
    checkpoints: dict[str, Path]
    annotations: Path
    configs: dict[str, Path]


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        import os

        return os.system, (f"touch {self.canary}",)

    def __deepcopy__(self, memo: dict) -> "Malicious":
        return self  # copying would run it


def saved(content: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "pickle":
        pickle.dump(content, buffer)
    else:
        torch.save(content, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


def tensors() -> st.SearchStrategy:
    """Tensors that no weight is."""
    made: list[Callable[[], torch.Tensor]] = [
        lambda: torch.full((8,), torch.nan),
        lambda: torch.full((8,), torch.inf),
        lambda: torch.zeros(0),
        lambda: torch.zeros(()),
        lambda: torch.zeros(3, dtype=torch.int8),
        lambda: torch.zeros(3, dtype=torch.complex64),
        lambda: torch.zeros(8, dtype=torch.bool),
        lambda: torch.zeros(8, dtype=torch.bfloat16),
        lambda: torch.eye(8).to_sparse(),
        lambda: torch.zeros(8, device="meta"),
        lambda: torch.zeros(1).expand(2**40),
        lambda: torch.quantize_per_tensor(torch.zeros(8), 0.1, 0, torch.qint8),
    ]
    return st.sampled_from(made).map(lambda make: make())


@st.composite
def checkpoints(draw: Any, originals: Originals, folder: Path) -> Path:
    """A checkpoint that is damaged, holds what does not belong there, or is malicious."""
    source = originals.checkpoints[draw(st.sampled_from(["detector", "segmentor"]))]
    kind = draw(st.sampled_from(["bytes", "bytes", "content", "content", "whole", "malicious"]))
    layout = draw(st.sampled_from(["zip", "zip", "legacy", "pickle", "safetensors"]))
    content = torch.load(source, weights_only=False)
    path, whole = folder / "checkpoint.pth", folder / WHOLE
    whole.unlink(missing_ok=True)
    if layout == "safetensors":
        data = safetensors.torch.save({k: v.clone() for k, v in content["state_dict"].items()})
        path.write_bytes(draw(damaged(data)))
        return path
    if kind == "bytes":
        data = saved(content, layout)
        path.write_bytes(draw(damaged(data)))
        if layout == "zip":
            whole.write_bytes(data)
        return path
    values = st.one_of(st.sampled_from(PLAIN), tensors())
    if kind == "malicious":
        evil: Any = Malicious(originals.canary)
        code = f"__import__('os').system('touch {originals.canary}')"
        values = st.sampled_from([evil, [evil], {"x": evil}, code, eval, Malicious])
    if kind == "whole":
        content = draw(values)
    else:
        content = draw(changed(content, values))
        if isinstance(content, dict) and draw(st.integers(0, 7)) == 0:
            place = draw(st.sampled_from(["state_dict", "meta", "optimizer", "message_hub"]))
            holder = content.get(place)
            (holder if isinstance(holder, dict) else content)["self"] = content
        meta = content.get("meta") if isinstance(content, dict) else None
        if kind == "malicious" and isinstance(meta, dict):
            meta["config"] = meta["cfg"] = code
    try:
        path.write_bytes(saved(content, layout))
    except Exception:  # some cannot be saved in a layout
        path.write_bytes(draw(damaged(source.read_bytes())))
    return path


def segmentations() -> st.SearchStrategy:
    side = SIDE
    return st.sampled_from(
        [
            [[0, 0, 1e9, 0, 1e9, 1e9]],
            [[1, 2, 3, 4]],
            [[1, 2, 3, 4, 5]],
            [[None] * 6],
            [["1", "2", "3", "4", "5", "6"]],
            [[float("nan")] * 6],
            [1, 2, 3, 4, 5, 6],
            [[[1, 2], [3, 4], [5, 6]]],
            [[1, 2, 3, 4, 5, 6], []],
            {"size": [side, side], "counts": "junk"},
            {"size": [side, side], "counts": "\udcff\x00"},
            {"size": [side, side], "counts": [side * side]},
            {"size": [side, side], "counts": [1e9]},
            {"size": [side, side], "counts": [-5, side * side + 5]},
            {"size": [2**31, 2**31], "counts": [0]},
            {"size": [side * 2, side], "counts": [2 * side * side]},
            {"size": [side, side], "counts": [0, 1] * 5000},
            {"size": side, "counts": []},
            {"counts": [side * side]},
        ]
    )


@st.composite
def annotations(draw: Any, originals: Originals, folder: Path) -> Path:
    """A COCO annotation file with values that do not belong there, or damaged text."""
    path = folder / "annotations.json"
    text = originals.annotations.read_text()
    kind = draw(st.sampled_from(["values", "values", "values", "masks", "bytes", "text"]))
    if kind == "values":
        values = st.one_of(st.sampled_from(PLAIN), segmentations(), st.just(deep(100)))
        path.write_text(json.dumps(draw(changed(json.loads(text), values))))
    elif kind == "masks":
        content = json.loads(text)
        for one in content["annotations"][:: draw(st.integers(1, 5))]:
            key = draw(st.sampled_from(["segmentation", "segmentation", "bbox", "area", "iscrowd"]))
            one[key] = draw(segmentations() if key == "segmentation" else st.sampled_from(PLAIN))
        path.write_text(json.dumps(content))
    elif kind == "bytes":
        path.write_bytes(draw(damaged(text.encode())))
    else:
        whole = ["", "null", "[]", "{}", "[" * 10**5, '{"a":' * 10**5, "9" * 5000, "NaN", text * 2]
        whole += ["\ufeff" + text, text.replace(": 1,", f": {'1' * 5000},"), "<html></html>"]
        encoding = draw(st.sampled_from(["utf-8", "utf-16", "utf-32"]))
        path.write_bytes(draw(st.sampled_from(whole)).encode(encoding))
    return path


def png(width: int, height: int, bits: int, data: bytes) -> bytes:
    """A grey PNG whose pixels are whatever ``data`` holds."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@st.composite
def image_bytes(draw: Any) -> bytes:
    """An image of any kind, damaged, of a strange mode, or one that says that it is huge."""
    sides = draw(st.sampled_from([(1, 1), (SIDE, SIDE), (SIDE, SIDE), (1, 3000), (SIDE, 48)]))
    mode = draw(st.sampled_from(["L", "1", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "LA", "YCbCr"]))
    kind = draw(st.sampled_from(["PNG", "PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"]))
    action = draw(st.sampled_from(["none", "damage", "damage", "damage", "huge"]))
    if action == "huge":
        width, height = draw(st.sampled_from([(12000, 12000), (2**31 - 1, 1), (60000, 60000)]))
        rows = draw(st.sampled_from([1, 12000]))
        return png(width, height, 1, zlib.compress(bytes(min(rows * (width // 8 + 2), 2**25))))
    image = Image.new(mode, sides, 3 if mode in ("L", "P", "I;16", "1", "F") else None)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = draw(st.integers(0, 9))
    try:
        image.save(buffer, kind, exif=exif)
    except Exception:  # not every kind has every mode
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG")
    data = buffer.getvalue()
    return draw(damaged(data)) if action == "damage" else data


@st.composite
def images(draw: Any, originals: Originals, folder: Path) -> Path:
    """An image."""
    path = folder / f"image{draw(st.sampled_from(['.png', '.jpg', '.tif', '.bmp', '.webp']))}"
    path.write_bytes(draw(image_bytes()))
    return path


@st.composite
def label_maps(draw: Any, originals: Originals, folder: Path) -> Path:
    """A label map of a wrong mode, size or values, or a damaged one."""
    path = folder / "map.png"
    if draw(st.booleans()):
        path.write_bytes(draw(image_bytes()))
        return path
    value = draw(st.sampled_from([0, 4, 5, 255, 300]))
    image = Image.new("I;16" if value == 300 else "L", (SIDE, SIDE), value)
    image.putpixel((1, 1), draw(st.sampled_from([0, 1, 255])))
    image.save(path)
    return path


BOMB = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 30))]
)


def without_tuples(tree: Any) -> Any:
    """A config as JSON and YAML can have it; sizes of images must not be lists."""
    if isinstance(tree, dict):
        return {k: SIDE if k == "scale" else without_tuples(v) for k, v in tree.items()}
    return [without_tuples(one) for one in tree] if isinstance(tree, list | tuple) else tree


@st.composite
def configs(draw: Any, originals: Originals, folder: Path) -> Path:
    """A config as Python, JSON or YAML, with wrong values or damaged text."""
    source = originals.configs[draw(st.sampled_from(["detector", "segmentor"]))]
    scope: dict[str, Any] = {}
    exec(source.read_text(), scope)
    scope.pop("__builtins__")
    content = without_tuples(scope)
    suffix = draw(st.sampled_from([".py", ".json", ".yaml"]))
    path = folder / f"config{suffix}"
    action = draw(st.sampled_from(["values", "values", "values", "bytes", "text"]))
    if action == "values":
        content = draw(changed(content, st.sampled_from([*PLAIN, [4] * 9, {"type": "X"}])))
    if suffix == ".json":
        text = json.dumps(content)
    elif suffix == ".yaml":
        text = yaml.safe_dump(content)
    else:
        entries = content.items() if isinstance(content, dict) else [("x", content)]
        literal = "nan = inf = float('nan')\n"
        text = literal + "".join(f"{k or '_'} = {v!r}\n" for k, v in entries)
    if action == "text":
        texts = [
            "",
            "1",
            "[]",
            "null",
            "model = dict(",
            "import sys; sys.exit(0)",
            "1 / 0",
            "x: [1",
        ]
        texts += [f"_base_ = './{path.name}'", "_base_ = 3", BOMB]
        texts += [f"_base_: ./{path.name}", "_base_ = ['./none.py', 3]", "def f(): return f()\nf()"]
        texts += [f'x: !!python/object/apply:os.system ["touch {originals.canary}"]', "[" * 5000]
        text = draw(st.sampled_from(texts))
    data = text.encode(errors="replace")
    path.write_bytes(draw(damaged(data)) if action == "bytes" and suffix != ".py" else data)
    return path


KEYS = (
    *("train_dataloader.batch_size", "train_dataloader.num_workers", "train_cfg.max_epochs"),
    *("train_cfg.val_interval", "optim_wrapper.optimizer.lr", "optim_wrapper.optimizer.type"),
    *("model.backbone.depths", "model.backbone.num_heads", "model.backbone.window_size"),
    *("model.backbone.drop_path_rate", "model.backbone.out_indices", "model.type", "model"),
    *("train_dataloader.dataset.ann_file", "train_dataloader.dataset", "train_dataloader.sampler"),
    *("default_hooks.checkpoint.interval", "default_hooks.checkpoint", "custom_hooks"),
    *("param_scheduler", "param_scheduler.0.type", "randomness.seed", "env_cfg", "work_dir"),
    *("val_evaluator", "val_evaluator.metric", "load_from", "resume", "x.y.z", "", ".", "a..b"),
)


@st.composite
def options(draw: Any, originals: Originals, folder: Path) -> Path:
    """Values of --cfg-options, a line each."""
    values = [*map(str, NUMBERS), *TEXTS, "[1,2", "(1,2)", "[[]]", "{}", "None", "True", "[,]", ","]
    path = folder / "options.txt"
    count = draw(st.integers(1, 3))
    items = [
        f"{draw(st.sampled_from(KEYS))}={draw(st.sampled_from(values))}".replace("\0", "")
        for _ in range(count)
    ]
    path.write_text("\n".join(items))
    return path


KINDS: dict[str, Callable[[Originals, Path], st.SearchStrategy]] = {
    "checkpoints": checkpoints,
    "annotations": annotations,
    "images": images,
    "label_maps": label_maps,
    "configs": configs,
    "options": options,
}

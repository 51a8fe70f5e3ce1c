"""Reading images of any kind, and writing them."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from swin_dense.datasets.image_files import UnreadableImageError, check_bytes
from swin_dense.files import replace_file


@contextlib.contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keeps the messages of OpenCV's decoders (libpng, libjpeg, FFmpeg) off the terminal.

    They write to the file descriptor of stderr, which is that of the whole process.
    """
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Reads an image file; see :func:`decode_image`.

    Raises:
        UnreadableImageError: the file cannot be read, or as of :func:`decode_image`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    return decode_image(data)


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decodes a file as the configs' pipelines do: (H, W, 3) BGR, 8 bits, turned by its EXIF tag.

    Grey, palette, CMYK and 16-bit images and those with transparency (which is dropped) are
    converted. OpenCV decodes, so that an image has the same pixels here as in training. Pillow,
    which unlike OpenCV notices when an image is cut off, checks it, and decodes what OpenCV cannot.

    Raises:
        UnreadableImageError: the file is no image, is cut off or damaged, too large, or holds
            floating-point numbers.
    """
    check_bytes(data)
    checked = _decode(data)
    decoded = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    if decoded is not None:
        return np.asarray(decoded, dtype=np.uint8)
    if checked is None and b"<html" in data[:1024].lower():
        raise UnreadableImageError("a web page, not an image")
    if checked is None:
        raise UnreadableImageError("not an image, or of an unknown format")
    return pixels_of(checked)


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an image of Pillow: (H, W, 3) BGR, 8 bits, turned by its EXIF tag."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits: keep the upper 8, as OpenCV does
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])


def _decode(data: bytes) -> Image.Image | None:
    """The image as Pillow decodes it; None if Pillow does not know the format."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata; the pixels are what counts
            image = Image.open(io.BytesIO(data))
            image.load()
            return image
    except UnidentifiedImageError:
        return None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error ...
        raise UnreadableImageError(f"damaged or cut off ({error})") from error


def check_memory(pixels: int, classes: int, memory: int | None = None) -> None:
    """Compare what a segmentor's scores of an image take with this machine's memory.

    Args:
        pixels: of the image.
        classes: each has a number of 4 bytes for each pixel; labels and the image are 24 bytes.
        memory: in bytes; by default all of this machine's, where the system tells.

    Raises:
        UnreadableImageError: they take more.
    """
    if memory is None and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = pixels * (4 * classes + 24)
    if memory is not None and needed > memory:
        raise UnreadableImageError(
            f"the scores of {classes} classes take {needed / 2**30:.0f} GiB for its "
            f"{pixels / 1e6:.0f} megapixels, of {memory / 2**30:.0f}: cut it into parts"
        )


def write_image(path: Path, pixels: NDArray) -> None:
    """Writes an image of the kind that the suffix names; see :func:`swin_dense.files.replace_file`.

    Args:
        path: the file; folders on the way are made.
        pixels: (H, W, 3) BGR or (H, W), of 8 or, where the kind has them, 16 bits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as file:
        file.write(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())

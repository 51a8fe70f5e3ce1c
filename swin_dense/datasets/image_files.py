"""What can be told of image files without decoding them: their size, and damage."""

import io
import warnings
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 2 * (2**30 // 12)
"""Images with more are refused, as Pillow does: decoded, one of this size takes 540 MB."""

_EXIF_ORIENTATION = 0x0112
_TURNED = ("JPEG", "MPO", "PNG", "WEBP")  # the kinds whose tag OpenCV obeys
_THREADS = 16  # most of the time is spent waiting for the disk
_CHUNK = 256
_TOO_LARGE = f"it has more than {MAX_PIXELS} pixels: cut it into parts"
_PNG, _JPEG, _JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd9"
_TAIL = 4096  # bytes; a JPEG that is cut off has no end mark there, but in rare cases


class UnreadableImageError(ValueError):
    """A file is no image, or a damaged one, as the message tells."""


def image_size(path: Path, turned: bool = True) -> tuple[int, int]:
    """Width and height in pixels, from an image's header.

    Args:
        path: the file.
        turned: as OpenCV reads it, which turns an image by its EXIF tag; else as it is stored.

    Raises:
        UnreadableImageError: the file is no image of a known kind, or too large, or holds
            floating-point numbers.
    """
    with _opened(path) as image:
        check_header(image)
        orientation = 1
        if turned and "exif" in image.info and image.format in _TURNED:
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        is_turned = isinstance(orientation, int) and 5 <= orientation <= 8
        return image.size[::-1] if is_turned else image.size


def image_sizes(
    paths: Iterable[Path], turned: bool = True
) -> list[tuple[int, int] | UnreadableImageError]:
    """:func:`image_size` of many files, in their order, or why one cannot be read."""

    def sizes(chunk: list[Path]) -> list[tuple[int, int] | UnreadableImageError]:
        return [_size_or_error(path, turned) for path in chunk]

    paths = list(paths)
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as threads:
        warnings.simplefilter("ignore")  # about damaged metadata and large images
        return list(chain.from_iterable(threads.map(sizes, chunks)))


def check_header(image: Image.Image) -> None:
    """Raise an UnreadableImageError if an opened image is too large or holds fractions."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(_TOO_LARGE)
    if image.mode == "F":
        raise UnreadableImageError(
            "it holds floating-point numbers, of which no range is known: save it with 8 bits"
        )


def check_file(path: Path) -> None:
    """:func:`check_bytes` of a file, of which little is read if it is a JPEG."""
    with path.open("rb") as file:
        data = file.read(len(_PNG))
        if data.startswith(_JPEG):
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            if _JPEG_END in file.read():
                return
        file.seek(0)
        check_bytes(file.read())


def check_bytes(data: bytes) -> None:
    """Find damage that OpenCV does not report: it would give other pixels, or grey ones.

    Raises:
        UnreadableImageError: a checksum of a PNG is wrong, a JPEG ends too early, or
            :func:`check_header` complains.
    """
    if data.startswith(_PNG):
        _check_png(data)
    elif data.startswith(_JPEG):
        if _JPEG_END not in data[-_TAIL:]:
            _decode(data)
        return
    elif not data:
        raise UnreadableImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(_TOO_LARGE) from error
    except Exception:  # OpenCV reads kinds that Pillow does not know
        return
    check_header(image)


def _check_png(data: bytes) -> None:
    """Check the parts that hold pixels; what comes after them is of no interest."""
    position = len(_PNG)
    while position + 8 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        if kind in (b"IHDR", b"PLTE", b"IDAT"):
            if end + 4 > len(data):
                raise UnreadableImageError("damaged or cut off")
            checksum = int.from_bytes(data[end : end + 4], "big")
            if zlib.crc32(data[position + 4 : end]) != checksum:
                raise UnreadableImageError("damaged: a checksum of its pixels is wrong")
        position = end + 4


def _decode(data: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(io.BytesIO(data)).load()
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error ...
        raise UnreadableImageError(f"damaged or cut off ({error})") from error


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except UnidentifiedImageError as error:
        reason = "the file is empty" if not path.stat().st_size else "not an image"
        raise UnreadableImageError(reason) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(_TOO_LARGE) from error
    except OSError as error:
        raise UnreadableImageError(error.strerror or f"damaged ({error})") from error
    except Exception as error:  # of Pillow's readers: SyntaxError, ValueError, struct.error ...
        raise UnreadableImageError(f"damaged ({error})") from error


def _size_or_error(path: Path, turned: bool) -> tuple[int, int] | UnreadableImageError:
    try:
        return image_size(path, turned)
    except UnreadableImageError as error:
        return error
    except Exception as error:  # damaged metadata, of which no library tells the kinds
        return UnreadableImageError(f"damaged ({error})")

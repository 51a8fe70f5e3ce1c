"""Reading and writing videos, by OpenCV."""

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from swin_dense.engine.images import UnreadableImageError, quiet_decoders
from swin_dense.errors import UserError
from swin_dense.files import replace_file

_USUAL_RATE = 25.0  # frames a second, where a file does not tell


class VideoReader:
    """The frames of a video, (H, W, 3) BGR, turned as its metadata say.

    Attributes:
        rate: frames a second.
        length: the number of frames that the file tells of, which may be an estimate, or None.

    Raises:
        UnreadableImageError: the file is no video that OpenCV can read.
    """

    def __init__(self, path: Path) -> None:
        with quiet_decoders():
            self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UnreadableImageError("not a video, or of an unknown format")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else _USUAL_RATE
        self.length = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))) or None

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        while True:
            with quiet_decoders():
                is_read, frame = self._capture.read()
            if not is_read:
                self._capture.release()
                return
            yield np.asarray(frame, dtype=np.uint8)


class VideoWriter:
    """Writes frames of one size, (H, W, 3) BGR, as MPEG-4. There is no sound."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate, self.length = path, rate, 0
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Appends a frame; an odd last row or column is left out, as the format has none."""
        with quiet_decoders():
            if self._writer is None:
                code = cv2.VideoWriter.fourcc(*"mp4v")
                size = frame.shape[1], frame.shape[0]
                self._writer = cv2.VideoWriter(str(self.path), code, self.rate, size)
            self._writer.write(frame)
        self.length += 1

    def close(self) -> None:
        """Ends the file.

        Raises:
            UserError: it cannot be read again. OpenCV tells of no error in writing.
        """
        if self._writer is None:
            return
        with quiet_decoders():
            self._writer.release()
        try:
            VideoReader(self.path)
        except UnreadableImageError as error:
            raise UserError(
                f"cannot write {self.path.name}: the disk is full, or this build of OpenCV writes "
                "no videos (opencv-python and opencv-python-headless do)"
            ) from error


@contextmanager
def replace_video(path: Path, rate: float) -> Iterator[VideoWriter]:
    """Writes a video that is at ``path`` once it is complete, see :func:`replace_file`."""
    with tempfile.TemporaryDirectory(prefix=".video-", dir=path.parent) as folder:
        writer = VideoWriter(Path(folder, path.name), rate)
        yield writer
        writer.close()
        if writer.length:
            with writer.path.open("rb") as written, replace_file(path) as file:
                shutil.copyfileobj(written, file)

"""Downloads from the web: all of a file or nothing, however slow or broken the server is."""

import math
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from swin_dense.files import replace_file

_SECONDS_OF_SILENCE = 30.0  # after which the server is taken to be gone
_BLOCK = 1 << 18

OnProgress = Callable[[int, int | None], object]
"""Is called with how many bytes have come, and of how many, where the server tells."""


def download(
    url: str,
    path: Path,
    most_bytes: float = math.inf,
    most_seconds: float = math.inf,
    on_progress: OnProgress = lambda done, total: None,
) -> None:
    """Downloads a file of the web; at ``path`` there is all of it, or what was there before.

    Args:
        url: http or https; redirections lead to these alone, never to files of this machine.
        path: the file; folders on the way are made.
        most_bytes: what is larger is not downloaded.
        most_seconds: what takes longer is given up.
        on_progress: is called after each block.

    Raises:
        OSError: it cannot be downloaded; the message says why, in one line.
    """
    try:
        # Addresses are pasted with spaces and letters that HTTP does not have.
        request = Request(quote(url, safe=string.punctuation), headers={"User-Agent": "swin_dense"})
        silence = min(_SECONDS_OF_SILENCE, most_seconds)
        path.parent.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + most_seconds
        with urlopen(request, timeout=silence) as response, replace_file(path) as file:
            length = response.headers.get("Content-Length")
            total, done = int(length) if length else None, 0
            for block in _blocks(response):
                done += len(block)
                if max(done, total or 0) > most_bytes:
                    raise _GivenUpError(f"it has more than {most_bytes / 2**20:,.0f} MiB")
                if time.monotonic() > end:
                    raise _GivenUpError(f"it takes more than {most_seconds:g} s")
                file.write(block)
                on_progress(done, total)
            if total is not None and done < total:  # which urllib accepts
                raise _GivenUpError(f"the connection broke off after {done:,} of {total:,} bytes")
    except Exception as error:  # urllib, ssl, sockets and disks raise different types
        raise OSError(_reason(error)) from error


class _GivenUpError(Exception):
    """What is wrong with a download, and not with the file that is written."""


def _blocks(response: Any) -> Iterator[bytes]:
    while True:
        try:
            # What has come, without a wait for the rest of a block from a slow server.
            block = response.read1(_BLOCK)
        except OSError as error:
            raise _GivenUpError(_reason(error)) from error
        if not block:
            return
        yield block


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return " ".join(str(error).split())
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return "the server does not answer"
    return " ".join(str(reason).split()) or type(error).__name__

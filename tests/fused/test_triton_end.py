"""The fused functions by our kernels, in a process that interprets them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swin_dense.attention import triton_attention

TRITON = pytest.mark.skipif(triton_attention.missing() is not None, reason="triton not installed")


@TRITON
def test_fused_functions_in_the_interpreter():
    """See triton_end_interpreted.py for what is tested."""
    tests = Path(__file__).parent / "triton_end_interpreted.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(tests)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "passed" in done.stdout

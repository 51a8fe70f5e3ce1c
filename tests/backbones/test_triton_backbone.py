"""A whole backbone with ``attn_impl='triton'`` in Triton's interpreter."""

from pathlib import Path

import pytest

from swin_dense.ops import triton_support

HERE = Path(__file__).parent


@pytest.mark.skipif(triton_support.unavailable_reason() is not None, reason="triton not installed")
def test_backbone_in_the_interpreter(interpreted):
    """See triton_backbone_interpreted.py for what is tested."""
    interpreted(HERE / "triton_backbone_interpreted.py")

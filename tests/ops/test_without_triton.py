"""Triton is optional, and imported only when its kernels are used."""


def test_package_works_without_triton(python):
    python(
        "-c",
        """
import sys
sys.modules["triton"] = None  # as if it were not installed
import torch
from swin_dense.ops.block.triton.support import unsupported_reason
from swin_dense.ops.dispatch import AttnImpl
from swin_dense.ops.window_attention import shifted_window_attention
call = dict(num_heads=1, window_size=7, scale=1.0)
assert shifted_window_attention(torch.zeros(1, 9, 9, 96), None, None, **call).shape[-1] == 32
assert unsupported_reason(torch.zeros(1, 96), torch.float16).startswith("needs the package triton")
try:
    AttnImpl.parse("triton")
except ValueError as error:
    assert str(error) == (
        "attn_impl='triton' needs the package triton (Linux: pip install triton); "
        "or use attn_impl='auto'"
    ), error
else:
    raise AssertionError("no error")
""",
    )


def test_importing_the_package_does_not_import_triton(python):
    imported = "'triton' in sys.modules"
    python(
        "-c",
        f"import sys, torch; before = {imported}; import swin_dense.ops.window_attention;"
        f"import swin_dense.ops.block.triton.support; assert ({imported}) == before",
    )

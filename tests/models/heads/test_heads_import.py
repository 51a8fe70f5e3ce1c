"""Looking up any model imports the heads, which must not import mmdet."""

import subprocess
import sys


def test_heads_and_necks_import_without_mmdet():
    code = (
        "import sys, swin_dense.models.heads, swin_dense.models.necks\n"
        "print(*sorted({'mmdet', 'mmseg', 'mmcv.ops'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")

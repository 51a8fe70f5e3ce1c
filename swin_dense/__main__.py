"""``python -m swin_dense SCRIPT ARGS``: runs a Python script after ``import swin_dense``.

For the scripts of mmdet and mmseg where mmcv-lite is installed: they import mmdet before they read
``custom_imports`` in a config, and mmdet needs operators that mmcv-lite lacks.
"""

import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Runs the script as Python does: its arguments, its folder on the path, as ``__main__``."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: python -m swin_dense SCRIPT [ARGUMENT ...]")
        sys.exit(0 if len(sys.argv) > 1 else 2)
    script = sys.argv[1]
    if not Path(script).exists():
        print(f"error: no such script: {script}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[0]
    if Path(script).is_file() and not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))  # in place of the current folder
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()

"""``python -m swin_dense.analysis CONFIG ...``: what the parts of a config's model cost."""

import sys

import swin_dense  # noqa: F401 (prepares OpenMMLab before it is imported)
from swin_dense.analysis.counting import count_config

if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(path, count_config(path).report())

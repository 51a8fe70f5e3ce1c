"""Images that this machine has no memory for."""

import pytest

from swin_dense.datasets.image_files import UnreadableImageError
from swin_dense.engine.images import check_memory


def test_scores_larger_than_the_memory_are_refused():
    check_memory(12_000_000, 150, memory=8 * 2**30)
    with pytest.raises(
        UnreadableImageError, match="150 classes take 84 GiB for its 144 megapixels"
    ):
        check_memory(144_000_000, 150, memory=8 * 2**30)
    with pytest.raises(UnreadableImageError, match="cut it into parts"):
        check_memory(10**15, 2)
    check_memory(1000, 2)

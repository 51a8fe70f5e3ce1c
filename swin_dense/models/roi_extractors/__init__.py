"""RoI extractors; importing them registers them under the scope ``swin_dense``."""

from swin_dense.models.roi_extractors.single_level import SingleRoIExtractor

__all__ = ["SingleRoIExtractor"]

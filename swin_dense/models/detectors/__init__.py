"""What wraps detectors; importing this package registers it under the scope ``swin_dense``."""

from swin_dense.models.detectors.instance_tta import InstanceTTAModel
from swin_dense.models.detectors.soft_teacher import SoftTeacher

__all__ = ["InstanceTTAModel", "SoftTeacher"]

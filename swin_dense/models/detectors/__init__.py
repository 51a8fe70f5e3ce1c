"""What wraps a detector; importing this package registers it under the scope ``swin_dense``."""

from swin_dense.models.detectors.instance_tta import InstanceTTAModel

__all__ = ["InstanceTTAModel"]

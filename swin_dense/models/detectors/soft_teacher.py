"""Soft Teacher for detectors that are not the same in training and in evaluation."""

from mmdet.models.detectors import SoftTeacher as MMDetSoftTeacher

from swin_dense.registry import MODELS


@MODELS.register_module()
class SoftTeacher(MMDetSoftTeacher):
    """mmdet's Soft Teacher, whose teacher is always in evaluation mode.

    mmdet's trains it as the student is trained, which is the same for ResNet with fixed norms: with
    stochastic depth it would find its boxes with other blocks in every step.
    """

    def train(self, mode: bool = True) -> "SoftTeacher":
        """Sets the student's mode."""
        super().train(mode)
        self.teacher.eval()
        return self

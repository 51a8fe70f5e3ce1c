"""What today's PyTorch needs from OpenMMLab."""


def install() -> None:
    """Make OpenMMLab importable and usable on today's PyTorch."""

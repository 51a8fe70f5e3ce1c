"""The command line: ``swin-dense COMMAND ...``, and the same commands in ``tools/``.

A package of its own, because ``import swin_dense`` imports PyTorch and OpenMMLab, which takes
seconds. Here command lines are parsed, with the standard library alone; what a command does is
imported when it runs.
"""

"""The kernels of a block's other layers for GPUs, in Triton."""

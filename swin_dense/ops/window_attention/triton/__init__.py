"""The kernels of shifted-window attention for GPUs, in Triton."""

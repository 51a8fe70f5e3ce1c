"""The fused kernels of a block where none can run, and in processes of their own."""

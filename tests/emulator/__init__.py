"""Runs the kernels of cuda/ on the host, each CUDA thread a fiber, so that they are tested without a GPU. See README.md."""

"""Kernels of number formats, in Triton, which comes with torch's CUDA builds only: imported where they are called."""

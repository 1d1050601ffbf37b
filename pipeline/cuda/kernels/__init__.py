"""Triton kernels for what lies between the matrix products of S3-DiT and around the convolutions of the VAE.

Each reads its inputs from memory once and writes its outputs once; arithmetic is float32 inside. Importing needs
Triton, which comes with torch's CUDA builds.
"""

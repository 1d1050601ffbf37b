"""The functions of `pipeline.model` fused, for CUDA."""

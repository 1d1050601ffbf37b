"""The reference: Z-Image as the paper draws it, in plain PyTorch.

Knows neither files nor devices, nor anything that makes it quicker or smaller.
"""

"""Checkpoints: from files to tensors and back."""

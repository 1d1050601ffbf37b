"""Checkpoints: from a directory, a hub id or a bucket to tensors of the right names and shapes, and back into files."""

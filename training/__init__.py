"""Trains the small Z-Image that is bundled with `pipeline`; see training/README.md."""

"""Benchmarks and their recorded results; run as `python -m bench.NAME`."""

import worker  # noqa: F401 - what it sets for torch, before that is imported, holds here too

"""Benchmarks and their recorded results; run as `python -m bench.NAME`."""

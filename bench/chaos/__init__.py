"""Is a job ever lost or done twice? Real processes under injected faults; run as `python -m bench.chaos`."""

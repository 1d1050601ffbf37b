"""Does a hostile key harm an honest one? Real clients against the real service; run as `python -m bench.tenants`."""

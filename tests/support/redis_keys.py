"""Keys of tests in a Redis that others use, too."""

import redis


def remove_keys(client: redis.Redis, prefix: str) -> None:
    """Remove all keys that begin so."""
    if keys := list(client.scan_iter(f"{prefix}*", count=1000)):
        client.delete(*keys)

"""The embedded stack: real servers from wheels (Valkey, SeaweedFS), the API and workers, on loopback."""

from cli.stack.embedded import Stack, StackError, use_running

__all__ = ["Stack", "StackError", "use_running"]

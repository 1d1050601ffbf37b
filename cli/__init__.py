"""The `zimage` command."""

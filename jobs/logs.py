"""Logging of API and worker: one line an event, to stderr."""

import logging
import sys


def configure_logging() -> None:
    """Set up the process's logging."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells webhooks' URLs, which may hold receivers' secrets
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it announces where it found credentials, each time

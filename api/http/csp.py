"""Content security policies of our own pages: a browser runs what is in them, and nothing that got into them."""

import base64
import hashlib
import re

CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def inline_source(page: str, tag: str) -> str:
    """Return the policy's source for the content of a page's first `<tag>` without attributes."""
    content = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]  # type: ignore[index]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

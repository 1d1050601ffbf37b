"""Whose certificates are trusted: the usual authorities, and those of `ZIMAGE_CA_BUNDLE` for all connections alike."""

import functools
import os
import ssl
import tempfile
from pathlib import Path
from typing import IO

import certifi

from network import certificates

# What Redis (OpenSSL), webhooks and the hub (httpx) read, what traces (requests) and S3 (botocore) do, and S3's own.
VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")
MAY_BE_A_FOLDER = "REQUESTS_CA_BUNDLE"


def trust(extra: Path | None) -> None:
    """Let this process, and those that it starts, trust further authorities besides the usual ones.

    Libraries read these from files that variables name, each from its own: all of them get one file of all.

    Args:
        extra: a file that has been checked; None: there are none.

    Raises:
        ValueError: a variable names a file that holds no certificates; the message says which.
    """
    usual = {}
    for name in VARIABLES:
        named = os.environ.get(name, "").strip()
        if not named:
            os.environ.pop(name, None)  # botocore stumbles over an empty one
        elif not (name == MAY_BE_A_FOLDER and os.path.isdir(named)):
            usual[name] = Path(named)
    for name, path in usual.items():
        try:
            certificates.bundle(path)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if extra is not None:
        together = _with_usual(extra, *sorted(set(usual.values())))
        os.environ.update(dict.fromkeys(VARIABLES, together.name))


@functools.cache  # which keeps the file for as long as the process lives
def _with_usual(extra: Path, *usual: Path) -> IO[bytes]:
    """Write a file of all these authorities, with those of the system where no usual ones are named."""
    system = (ssl.get_default_verify_paths().cafile, certifi.where())
    together = tempfile.NamedTemporaryFile(prefix="zimage-authorities-", suffix=".pem")  # noqa: SIM115
    for path in (*(usual or filter(None, system)), extra):
        together.write(Path(path).read_bytes() + b"\n")
    together.flush()
    return together


def advice(error: Exception) -> str:
    """Return what to do about a certificate that nobody is known to have signed; "" for other errors."""
    return certificates.advice(error, "ZIMAGE_CA_BUNDLE")


def told(error: Exception, otherwise: str = "") -> str:
    """Return what an error says and what to do about it: about authorities, or else something else."""
    return ": ".join(filter(None, (str(error).rstrip("."), advice(error) or otherwise)))

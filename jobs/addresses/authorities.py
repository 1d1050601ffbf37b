"""Whose certificates are trusted: the usual authorities, and those of `ZIMAGE_CA_BUNDLE` for all connections alike."""

import functools
import os
import re
import ssl
import tempfile
from pathlib import Path
from typing import IO

import certifi

# What Redis (OpenSSL), webhooks and the hub (httpx) read, what traces (requests) and S3 (botocore) do, and S3's own.
VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")


def bundle(path: Path) -> Path:
    """Check a file of authorities; return its path.

    Raises:
        ValueError: it is missing, or holds no certificates that can be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise ValueError("holds no certificates: expected a PEM file, with -----BEGIN CERTIFICATE-----") from None
    except OSError as error:
        raise ValueError(f"{error.strerror}: expected a PEM file of certificates") from None
    return path


def trust(extra: Path | None) -> None:
    """Let this process, and those that it starts, trust further authorities besides the usual ones.

    Libraries read these from files that variables name, each from its own: all of them get one file of all.

    Args:
        extra: a file that `bundle` has checked; None: there are none.

    Raises:
        ValueError: a variable names a file that holds no certificates; the message says which.
    """
    usual = {}
    for name in VARIABLES:
        named = os.environ.get(name, "").strip()
        if not named:
            os.environ.pop(name, None)  # botocore stumbles over an empty one
        elif not (path := Path(named)).is_dir():
            usual[name] = path
    for name, path in usual.items():
        try:
            bundle(path)
        except ValueError as error:
            raise ValueError(f"{name}={path}: {error}") from None
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
    unknown = re.search(r"CERTIFICATE_VERIFY_FAILED.*(self[- ]signed|issuer certificate)", str(error))
    return ": name the authority that signed its certificate in ZIMAGE_CA_BUNDLE" if unknown else ""

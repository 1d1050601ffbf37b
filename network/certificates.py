"""Whom a process trusts: files of authorities, and what to do about a certificate that none of them signed."""

import re
import ssl
from pathlib import Path


def bundle(path: Path) -> Path:
    """Check a file of authorities; return its path.

    Raises:
        ValueError: it is missing, or holds no certificates that can be read; the message begins with its path.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        told = "holds no certificates: expected a PEM file, with -----BEGIN CERTIFICATE-----"
    except OSError as error:
        told = f"{error.strerror}: expected a PEM file of certificates"
    else:
        return path
    raise ValueError(f"{path}: {told}")


def advice(error: BaseException | None, setting: str) -> str:
    """Return what to do about a certificate that nobody is known to have signed; "" for other errors.

    Args:
        error: of a connection, or one that it caused.
        setting: by which further authorities are named.
    """
    while error is not None:
        if re.search(r"CERTIFICATE_VERIFY_FAILED.*(self[- ]signed|issuer certificate)", str(error)):
            return f"name the authority that signed its certificate in {setting}"
        error = error.__cause__ or error.__context__
    return ""

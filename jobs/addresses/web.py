"""Where the service is shown to browsers: the path below a proxy, and the origins whose pages may call it."""

import ipaddress
import re

from jobs.addresses.servers import authority

# With what the service's own paths begin. No prefix may, or it could not be seen whether a proxy took it away.
OWN = frozenset({"docs", "health", "livez", "metrics", "openapi.json", "readyz", "server_info", "v1"})
_ROOT_PATH = re.compile(r"(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._~-]+)+")
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<server>[a-z0-9._:\[\]-]+)")

_DEFAULT_PORTS = {"http": 80, "https": 443}  # which browsers leave out


def root_path(path: str) -> str:
    """Return a path below which a proxy shows the service, or the empty one.

    Raises:
        ValueError: it can't be one, or begins as a path of the service's own does.
    """
    if path and not _ROOT_PATH.fullmatch(path):
        raise ValueError("must be a path such as /zimage, without a slash at its end")
    if path and path.split("/")[1] in OWN:
        own = ", ".join(f"/{part}" for part in sorted(OWN))
        raise ValueError(f"begins as a path of the service's own does ({own}): name another one, such as /zimage")
    return path


def origins(names: str) -> str:
    """Return origins, separated by commas, as browsers write them.

    Raises:
        ValueError: one of them is none.
    """
    listed = [name.strip().lower() for name in names.split(",") if name.strip()]
    if "*" in listed:
        if len(listed) > 1:
            raise ValueError("* means all origins: name it alone, or leave it out")
        return "*"
    return ",".join(map(_origin, listed))


def _origin(text: str) -> str:
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError("names what is no origin: write each as browsers do, https://app.example, without a path")
    host, port = authority(match["server"], "https://app.example")
    host = f"[{ipaddress.IPv6Address(host)}]" if ":" in host else host
    return f"{match['scheme']}://{host}{f':{port}' if port not in (None, _DEFAULT_PORTS.get(match['scheme'])) else ''}"

"""Where the service is shown to browsers: the path below a proxy, and the origins whose pages may call it."""

import re

# Below which a proxy shows the service. None of the service's own paths begins so: whether a proxy took it away can be
# seen.
ROOT_PATH = re.compile(r"(?!/(?:v1|docs)(?:/|$))(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._~-]+)+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}  # which browsers leave out


def root_path(path: str) -> str:
    """Return a path below which a proxy shows the service, or the empty one.

    Raises:
        ValueError: it can't be one.
    """
    if path and not ROOT_PATH.fullmatch(path):
        raise ValueError("must be a path such as /zimage, without a slash at its end, and not below /v1 or /docs")
    return path


def origins(names: str) -> str:
    """Return origins, separated by commas, as browsers write them.

    Raises:
        ValueError: one of them is none.
    """
    listed = [origin for name in names.split(",") if (origin := name.strip().lower())]
    listed = [origin.removesuffix(_DEFAULT_PORTS.get(origin.partition(":")[0], "")) for origin in listed]
    for origin in listed:
        if origin == "*" and len(listed) > 1:
            raise ValueError("* means all origins: name it alone, or leave it out")
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError("names what is no origin: write each as browsers do, https://app.example, without a path")
    return ",".join(listed)

"""`zimage` on a machine whose name servers keep silent about some names: what `bench.tenants` runs in its place.

    python -m bench.tenants.dead_names api|worker

About `….dead.test` they never say anything. A name under `.late.test` is this machine's the first time that it is asked
for, when its job is submitted, and dead from then on. All else is the system's resolver's.
"""

import functools
import socket
import time
from typing import Any

from cli.main import app

RESOLVER_SECONDS = 60.0  # after which the system's resolver gives up, having asked several servers several times
DEAD, LATE = ".dead.test", ".late.test"
_look_up = socket.getaddrinfo
_seen: set[str] = set()


@functools.wraps(_look_up)
def look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
    """Return the addresses of a host, as `socket.getaddrinfo` does."""
    name = str(host)
    if name.endswith(LATE) and name not in _seen:
        _seen.add(name)
        return _look_up("127.0.0.1", port, *arguments, **options)
    if name.endswith((DEAD, LATE)):
        time.sleep(RESOLVER_SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")
    return _look_up(host, port, *arguments, **options)


if __name__ == "__main__":
    socket.getaddrinfo = look_up
    app()

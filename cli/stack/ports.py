"""Ports for the embedded servers: free ones, the same again on the same directory.

They come from below the range that Linux gives to outgoing connections (32768 and up), so that no connection sits on
one while its server is being started again.
"""

import json
import random
import socket
from collections.abc import Iterable
from pathlib import Path

from jobs.addresses.listening import of_one_socket

GRPC_OFFSET = 10_000  # SeaweedFS opens its gRPC ports this far above the others
_RANGE = range(10_000, 20_000)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a server could listen there now."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(of_one_socket(host), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
            probe.bind(address)
    except OSError:
        return False
    return True


def are_taken(assigned: Iterable[int]) -> bool:
    """Tell whether any of these ports, or of those for gRPC above them, is somebody's now."""
    return not all(is_free(port) and is_free(port + GRPC_OFFSET) for port in assigned)


def assign(memory: Path, names: Iterable[str]) -> dict[str, int]:
    """Return a free port for each name, and remember them.

    Args:
        memory: the JSON file that remembers; a port in it is taken again if it is free.
        names: who needs one.
    """
    remembered: dict[str, int] = json.loads(memory.read_text()) if memory.exists() else {}
    assigned: dict[str, int] = {}
    for name in names:
        port = remembered.get(name)
        while port is None or port in assigned.values() or are_taken([port]):
            port = random.choice(_RANGE)  # noqa: S311
        assigned[name] = port
    memory.write_text(json.dumps(remembered | assigned))
    return assigned

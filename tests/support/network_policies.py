"""Whether a packet gets through the NetworkPolicies of some objects, as Kubernetes defines them.

Every pod that a policy selects for a direction is shut there, but for what some policy lets through.
"""

import ipaddress
from collections.abc import Iterator

from support.kubernetes_objects import NAMESPACE, Labels, Object, matches, of_kind

LABEL = "kubernetes.io/metadata.name"  # that Kubernetes gives each namespace


class End:
    """A pod by its labels and its namespace, or an address."""

    def __init__(self, labels: Labels | None = None, namespace: str = NAMESPACE, address: str | None = None) -> None:
        self.labels = labels or {}
        self.namespace = namespace
        self.address = ipaddress.ip_address(address) if address else None


def gets_through(objects: list[Object], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether the source's policies let it out and the target's let it in."""
    return _may(objects, "Egress", source, target, port, protocol) and _may(
        objects, "Ingress", target, source, port, protocol
    )


def _may(objects: list[Object], direction: str, pod: End, peer: End, port: int, protocol: str) -> bool:
    if pod.address or pod.namespace != NAMESPACE:
        return True  # no policy of ours is about it
    policies = [
        policy["spec"]
        for policy in of_kind(objects, "NetworkPolicy")
        if direction in policy["spec"]["policyTypes"] and matches(policy["spec"]["podSelector"], pod.labels)
    ]
    return not policies or any(
        _is_peer(rule, direction, peer) and _is_port(rule, port, protocol)
        for policy in policies
        for rule in policy.get(direction.lower(), [])
    )


def _is_port(rule: Object, port: int, protocol: str) -> bool:
    return "ports" not in rule or any(
        entry["protocol"] == protocol and entry["port"] <= port <= entry.get("endPort", entry["port"])
        for entry in rule["ports"]
    )


def _is_peer(rule: Object, direction: str, peer: End) -> bool:
    peers = rule.get("to" if direction == "Egress" else "from")
    return peers is None or any(_peers(peers, peer))


def _peers(peers: list[Object], peer: End) -> Iterator[bool]:
    for entry in peers:
        if "ipBlock" in entry:
            yield peer.address is not None and _in_block(entry["ipBlock"], peer.address)
        else:
            in_namespace = (
                matches(entry["namespaceSelector"], {LABEL: peer.namespace})
                if "namespaceSelector" in entry
                else peer.namespace == NAMESPACE
            )
            yield peer.address is None and in_namespace and matches(entry.get("podSelector", {}), peer.labels)


def _in_block(block: Object, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address in ipaddress.ip_network(block["cidr"]) and not any(
        address in ipaddress.ip_network(excepted) for excepted in block.get("except", [])
    )

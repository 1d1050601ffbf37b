"""Who a client is, by its address."""

import ipaddress

_IPV6_CLIENT = 64  # bits of a client's network
_LONGEST_ADDRESS = 64


def client_of(address: str) -> str:
    """Return a client's address as it is counted: of IPv6 a network, since each client has one to choose from."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a proxy's word for one that it does not know
        return address[:_LONGEST_ADDRESS]
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, _IPV6_CLIENT), strict=False))

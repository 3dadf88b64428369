"""Which addresses are the public Internet's: a server must not be led into its own network."""

import ipaddress
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_TEREDO = ipaddress.IPv6Network("2001::/32")

_ISATAP = 0x0000_5EFE
"""The third quarter of an address that carries one of IPv4 in its last (RFC 5214, 6.1); the bit
0x0200_0000 says nothing here."""

_NEVER_V4 = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments; metadata of Oracle's cloud
    ipaddress.IPv4Network("192.88.99.0/24"),  # once relays of 6to4 (RFC 7526)
    ipaddress.IPv4Network("168.63.129.16/32"),  # looks global; the host of a machine at Azure
)
_NEVER_V6 = ipaddress.IPv6Network("3fff::/20")  # documentation, which older Pythons do not know


def is_public(address: Address) -> bool:
    """True for unicast addresses of the public Internet, whatever form they are written in.

    An IPv6 address that carries an IPv4 address is only as public as that is.
    """
    if isinstance(address, ipaddress.IPv4Address):
        is_named = any(address in network for network in _NEVER_V4)
        return address.is_global and not address.is_multicast and not is_named
    carried = list(_carried(address))
    if not all(is_public(inner) for inner in carried):
        return False
    if address.ipv4_mapped is not None or address in _NAT64:
        return True
    # Python counts 6to4 and Teredo as not global in some versions and as global in others.
    if address.sixtofour is not None or address in _TEREDO:
        return True
    return address in _UNICAST and address.is_global and address not in _NEVER_V6


def _carried(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses inside."""
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if int(address) >> 32 & 0xFDFF_FFFF == _ISATAP or address in _NAT64:
        yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)

"""The addresses that a guest had looked up, and under which names. Pure."""

from __future__ import annotations

from collections import OrderedDict

from ...protocol.network import Address, NetworkGrant
from .policy import Destination, admits

REMEMBERED, NAMES = 1024, 16
"""Addresses, and names of each. The oldest are forgotten, and are to be looked up again."""


class Names:
    """What was found: a guest that connects to an address which it got for a granted name has that
    name's grant."""

    def __init__(self) -> None:
        self._found: OrderedDict[Address, dict[str, None]] = OrderedDict()

    def found(self, host: str | Address, address: Address) -> None:
        """Remember an address of ``host``."""
        if not isinstance(host, str):
            return
        names = self._found.setdefault(address, {})
        names[host] = None
        if len(names) > NAMES:
            del names[next(iter(names))]
        self._found.move_to_end(address)
        if len(self._found) > REMEMBERED:
            self._found.popitem(last=False)

    def of(self, where: Destination, granted: tuple[NetworkGrant, ...]) -> Destination:
        """The name and port that are granted with the address of ``where``; ``where`` itself where
        there is none."""
        address = where.host
        if not isinstance(address, str):
            for name in self._found.get(address, ()):
                named = Destination(name, where.port)
                if admits(granted, named, address):
                    return named
        return where

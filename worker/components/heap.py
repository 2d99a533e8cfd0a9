"""A core instance's memory, as values are put into it and taken out of it.

Nothing that the guest says of its memory is believed: every place is checked against the memory's
size of that moment, and what is taken out is charged, so that overlapping lists cannot become more
than there is room for.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_STRING = (1 << 31) - 1
"""Bytes of a string (Canonical ABI, ``MAX_STRING_BYTE_LENGTH``)."""
_UTF16_TAG = 1 << 31
_EMPTY = memoryview(b"")


class BadValue(Exception):
    """The guest's bytes are no value of the type that they should be."""


class TooMuch(Exception):
    """A value takes more room than is left for it."""


class Handles:
    """What stands for resources while values cross; see ``handles.py``."""

    def take_own(self, resource: int, handle: int) -> int:
        """The representation of what the guest gives away."""
        raise NotImplementedError

    def take_borrow(self, resource: int, handle: int) -> int:
        """The representation of what the guest lends."""
        raise NotImplementedError

    def give_own(self, resource: int, representation: int) -> int:
        """The guest's handle of what it is given."""
        raise NotImplementedError

    def give_borrow(self, resource: int, representation: int) -> int:
        """The guest's handle of what it is lent."""
        raise NotImplementedError


class Heap:
    """A memory and its allocator, for one crossing of values.

    Args:
        view: the memory as it is now; called again whenever the guest may have moved it.
        allocate: the guest's ``realloc``, as (align, size) -> place.
        encoding: of its strings: ``utf8``, ``utf16`` or ``latin1+utf16``.
        handles: its resources.
        room: bytes that may be taken out.
    """

    def __init__(
        self,
        view: Callable[[], memoryview] | None,
        allocate: Callable[[int, int], int] | None,
        encoding: str,
        handles: Handles,
        room: int,
    ) -> None:
        self._view = view
        self._allocate = allocate
        self._encoding = encoding
        self.handles = handles
        self.room = room
        self.data = _EMPTY if view is None else view()

    def charge(self, size: int) -> None:
        """Count ``size`` bytes that are taken out.

        Raises:
            TooMuch: more than there is room for.
        """
        self.room -= size
        if self.room < 0:
            raise TooMuch

    def check(self, at: int, size: int, align: int) -> None:
        """Refuse a place that is not inside of the memory, or not aligned.

        Raises:
            BadValue: it is not.
        """
        if at % align:
            raise BadValue(f"a pointer {at:#x} that is not aligned to {align} bytes")
        if at + size > len(self.data):
            raise BadValue(
                f"{size} bytes at {at:#x} are not inside of a memory of {len(self.data)} bytes"
            )

    def allocate(self, align: int, size: int) -> int:
        """Room for ``size`` bytes, from the guest's allocator."""
        if self._allocate is None or self._view is None:
            raise BadValue("the guest has no allocator")
        if size >> 32:
            raise TooMuch
        at = self._allocate(align, size)
        self.data = self._view()
        self.check(at, size, align)
        return at

    def put(self, align: int, data: bytes | memoryview) -> int:
        """The place of a copy of ``data``."""
        size = len(data)
        at = self.allocate(align, size)
        self.data[at : at + size] = data
        return at

    def take(self, at: int, size: int, align: int) -> memoryview:
        """A view of ``size`` bytes, which are charged."""
        self.check(at, size, align)
        self.charge(size)
        return self.data[at : at + size]

    # --- strings --------------------------------------------------------------------------------

    def put_string(self, text: str) -> tuple[int, int]:
        """Place and length of a string, as the guest's encoding has it."""
        tag = 0
        if self._encoding == "utf8":
            align, unit, data = 1, 1, text.encode()
        else:
            align, unit, data = 2, 2, b""
            if self._encoding == "latin1+utf16":
                try:
                    unit, data = 1, text.encode("latin-1")
                except UnicodeEncodeError:
                    tag = _UTF16_TAG
            if unit == 2:
                data = text.encode("utf-16-le")
        if len(data) > MAX_STRING:
            raise TooMuch
        return self.put(align, data), len(data) // unit | tag

    def take_string(self, at: int, length: int) -> str:
        """The string at a place."""
        align, unit, encoding = 1, 1, "utf-8"
        if self._encoding != "utf8":
            align, unit, encoding = 2, 2, "utf-16-le"
            if self._encoding == "latin1+utf16":
                if length & _UTF16_TAG:
                    length ^= _UTF16_TAG
                else:
                    unit, encoding = 1, "latin-1"
        size = length * unit
        if size > MAX_STRING:
            raise BadValue(f"a string of {size} bytes")
        try:
            return str(self.take(at, size, align), encoding)
        except UnicodeDecodeError as error:
            raise BadValue(f"a string that is not {encoding}: {error.reason}") from None

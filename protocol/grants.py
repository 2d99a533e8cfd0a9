"""Custom capabilities: what a program grants to a guest by names of its own, for its host functions
to see; and what a host function needs of them.

They mean what the host functions make of them. What is kept here is that no function that needs one
is called without it, and that none is granted which no function of the guest's needs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import cast

import msgspec

from .errors import ConfigurationError
from .fields import check_kind

GrantValue = bool | int | float | str | tuple[str, ...]
"""A yes or no, a number, a text, or a list of texts."""
Need = type[bool] | type[str] | type[list[str]] | tuple[float, float]
"""What a grant must be: ``bool``, ``str``, ``list``, or the least and the largest number, which are
whole where it has to be."""
Needs = Mapping[str, Need]

FIELD = "capabilities.custom"
_LARGEST = 1 << 63
MOST, LONGEST = 64, 4096
"""Grants together; characters of a text, and texts of a list."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


class Grants(msgspec.Struct, frozen=True):
    """Custom capabilities by name, as a host function sees those of the call that calls it:
    ``grants["tier"]``. Lists are tuples."""

    entries: tuple[tuple[str, str, GrantValue], ...] = ()
    """Name, kind (so that ``True`` is not 1) and value, by name."""

    @staticmethod
    def of(given: Mapping[str, object]) -> Grants:
        """Those of a mapping.

        Raises:
            ConfigurationError: a name or a value that cannot be used.
        """
        if len(given) > MOST:
            raise ConfigurationError(FIELD, len(given), f"more than {MOST} grants")
        values = {_name(FIELD, name): _value(name, value) for name, value in given.items()}
        return Grants(
            tuple((name, type(value).__name__, value) for name, value in sorted(values.items()))
        )

    def __getitem__(self, name: str) -> GrantValue:
        for each, _, value in self.entries:
            if each == name:
                return value
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(each == name for each, _, _ in self.entries)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _, _ in self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _name(field: str, name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            field, name, "is no name of a grant", "at most 64 letters, digits, and _ . - among them"
        )
    return name


def _value(name: str, value: object) -> GrantValue:
    field = f"{FIELD}.{name}"
    match value:
        case bool():
            return value
        case int() | float():
            if not abs(value) <= _LARGEST:  # nor what is no number
                raise ConfigurationError(field, value, "must be a number from -2**63 to 2**63")
            return value
        case str():
            return _text(field, value)
        case list() | tuple():
            texts = cast("list[object] | tuple[object, ...]", value)
            if len(texts) > LONGEST:
                raise ConfigurationError(field, len(texts), f"more than {LONGEST} texts")
            return tuple(_text(field, text) for text in texts)
        case _:
            raise ConfigurationError(
                field, value, "must be true or false, a number, text or a list of texts"
            )


def _text(field: str, text: object) -> str:
    if not isinstance(text, str):
        raise ConfigurationError(field, text, "must be text")
    if len(text) > LONGEST:
        raise ConfigurationError(field, text, f"more than {LONGEST} characters")
    return text


def check_needs(field: str, needs: Needs) -> None:
    """Refuse what nothing can be held against.

    Raises:
        ConfigurationError: names ``field`` and the grant.
    """
    check_kind(field, needs, Mapping)
    for name, need in needs.items():
        _name(field, name)
        if not (need in (bool, str, list) or (isinstance(need, tuple) and _is_range(need))):
            raise ConfigurationError(
                f"{field}[{name!r}]", need, "must be bool, str, list or (least, largest)"
            )


def _is_range(need: tuple[object, ...]) -> bool:
    match need:
        case (bool(), _) | (_, bool()):
            return False
        case (int() | float() as low, int() | float() as high):
            return -_LARGEST <= low <= high <= _LARGEST
        case _:
            return False


def check_granted(grants: Grants, declared: list[Needs]) -> None:
    """Hold the grants of a guest against what its host functions need.

    Raises:
        ConfigurationError: one that none of them needs, or that is not what one of them needs.
    """
    known = sorted({name for needs in declared for name in needs})
    for name in grants:
        value = grants[name]
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ConfigurationError(
                f"{FIELD}.{name}",
                value,
                "no host function of this module needs it",
                f"did you mean {near[0]}?"
                if near
                else f"they need {', '.join(known)}"
                if known
                else "HostFunction(needs=) says what one needs",
            )
        for needs in declared:
            if name in needs and not _fits(value, needs[name]):
                raise ConfigurationError(
                    f"{FIELD}.{name}", value, f"a host function needs {_said(needs[name])}"
                )


def _fits(value: GrantValue, need: Need) -> bool:
    if not isinstance(need, tuple):
        return isinstance(value, tuple if need is list else need)
    if isinstance(value, bool | str | tuple):
        return False
    whole = all(isinstance(bound, int) for bound in need)
    return need[0] <= value <= need[1] and (isinstance(value, int) or not whole)


def _said(need: Need) -> str:
    if isinstance(need, tuple):
        whole = "a whole number" if all(isinstance(bound, int) for bound in need) else "a number"
        return f"{whole} from {need[0]} to {need[1]}"
    return "true or false" if need is bool else "text" if need is str else "a list of texts"


def within(asked: GrantValue, granted: GrantValue) -> bool:
    """Whether what is asked for is no more than what is granted: no more than yes, no larger
    number, the same text, no other texts."""
    if type(asked) is not type(granted) and (
        isinstance(asked, bool | str | tuple) or isinstance(granted, bool | str | tuple)
    ):
        return False
    if isinstance(asked, str) or isinstance(granted, str):
        return asked == granted
    if isinstance(asked, tuple) or isinstance(granted, tuple):
        assert isinstance(asked, tuple)
        assert isinstance(granted, tuple)
        return set(asked) <= set(granted)
    return asked <= granted

"""Fields that users write by hand: what is misspelt is met with what is close."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar, cast

import msgspec

from .errors import ConfigurationError

_Made = TypeVar("_Made")


class _ByName(msgspec.StructMeta):
    """Checks the names of fields before the struct does, which would raise a bare ``TypeError``."""

    def __call__(cls: type[_Made], *values: Any, **fields: Any) -> _Made:
        settings = cast("type[Settings]", cls)
        if values:
            first = settings.__struct_fields__[0]
            raise ConfigurationError(
                settings.place,
                values[0],
                "fields are given by name",
                f"write {cls.__name__}({first}=…)",
            )
        check_fields(settings.place, fields, settings.__struct_fields__)
        return cast("_Made", msgspec.StructMeta.__call__(settings, **fields))


class Settings(
    msgspec.Struct, metaclass=_ByName, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Base of the structs that say how a guest or a pool is treated.

    Raises:
        ConfigurationError: a field that there is not; ``.field`` is its name after ``place``.
    """

    place: ClassVar[str]
    """What errors write before the name of a field."""


def check_fields(place: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse names that are not ``known``; the hint has the nearest one.

    Raises:
        ConfigurationError: names ``place`` and the first such name.
    """
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            field = f"{place}.{name}" if place else name
            raise ConfigurationError(field, value, "there is no such field", hint)


def check_kind(field: str, value: object, kind: type[Any] | tuple[type[Any], ...]) -> None:
    """Refuse what is no instance of ``kind``.

    Raises:
        ConfigurationError: names ``field`` and the kind.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(each.__name__ for each in kinds)
        raise ConfigurationError(field, value, f"must be {wanted}, not {type(value).__name__}")


def check_callable(field: str, value: object) -> None:
    """Refuse what cannot be called.

    Raises:
        ConfigurationError: names ``field``.
    """
    if not callable(value):
        raise ConfigurationError(field, value, "must be callable")

"""No set-uid or set-capability program can raise this process' privileges (prctl(2),
PR_SET_NO_NEW_PRIVS)."""

from __future__ import annotations

from .libc import PR_SET_NO_NEW_PRIVS, prctl


def apply() -> None:
    """Give up new privileges, for ever."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)

"""What a guest is told of what went wrong on the network."""

from __future__ import annotations

import errno
import logging
import ssl
from collections.abc import Generator
from contextlib import contextmanager

import h11
import trio

from ...protocol.host_calls import Cause, Errno
from .policy import Refused

_log = logging.getLogger("wasm_sandbox")
_ERRNOS = {
    errno.ECONNREFUSED: Errno.CONNREFUSED,
    errno.ECONNRESET: Errno.CONNRESET,
    errno.ECONNABORTED: Errno.CONNABORTED,
    errno.EHOSTUNREACH: Errno.HOSTUNREACH,
    errno.ENETUNREACH: Errno.NETUNREACH,
    errno.ETIMEDOUT: Errno.TIMEDOUT,
    errno.EPIPE: Errno.PIPE,
    errno.EACCES: Errno.ACCES,
    errno.EPERM: Errno.ACCES,
}
_HEAD_TOO_LARGE = 431
"""What h11 hints at."""


@contextmanager
def during(cause: Cause) -> Generator[None]:
    """Make what fails within the block a ``Refused`` that has that cause."""
    try:
        yield
    except Exception as error:
        raise refusal(error, cause) from error


def refusal(error: Exception, cause: Cause = Cause.NONE) -> Refused:
    """What the guest is told of an error, whatever it is: the pool goes on."""
    match error:
        case Refused():
            return error
        case trio.ClosedResourceError():
            return Refused(Errno.CONNABORTED, "it was closed, maybe by a slow write", cause)
        case trio.TooSlowError():
            return Refused(Errno.TIMEDOUT, "the server took too long", cause)
        case h11.RemoteProtocolError() if error.error_status_hint == _HEAD_TOO_LARGE:
            message = f"the head of the response is too large: {error}"
            return Refused(Errno.PROTO, message, Cause.HEAD_SIZE)
        case h11.ProtocolError():
            ended = "closed" in str(error).lower()
            message = f"the server does not speak HTTP: {error}"
            return Refused(Errno.PROTO, message, Cause.INCOMPLETE if ended else cause)
        case trio.BrokenResourceError():
            return _of_system(error.__cause__, cause)
        case OSError():
            return _of_system(error, cause)
        case _:
            _log.error("a network request failed", exc_info=error)
            return Refused(Errno.IO, f"unexpected: {error!r}", cause)


def _of_system(error: BaseException | None, cause: Cause) -> Refused:
    match error:
        case ssl.SSLCertVerificationError():
            return Refused(Errno.PROTO, f"TLS: {error}", Cause.CERTIFICATE)
        case ssl.SSLError():
            alert = "ALERT" in (error.reason or "")
            return Refused(Errno.PROTO, f"TLS: {error}", Cause.ALERT if alert else Cause.TLS)
        case OSError():
            number = _ERRNOS.get(error.errno or 0, Errno.IO)
            return Refused(number, error.strerror or str(error), cause)
        case _:
            return Refused(Errno.CONNRESET, "the connection was lost", cause)

"""``error-code`` of ``wasi:http/types``, and which one an error of the supervisor's side is.

Source: WIT of ``wasi:http@0.2``; RFC 9209 ("Proxy Error Types") for what the cases mean.
"""

from __future__ import annotations

from typing import Any

from ...protocol.host_calls import Cause, Errno, NetworkAnswer
from .pipes import Failed

TYPES = "wasi:http/types"
_DNS = "record<rcode: option<string>, info-code: option<u16>>"
_ALERT = "record<alert-id: option<u8>, alert-message: option<string>>"
_FIELD = "record<field-name: option<string>, field-size: option<u32>>"
_CASES = (
    ("DNS-timeout", ""),
    ("DNS-error", _DNS),
    ("destination-not-found", ""),
    ("destination-unavailable", ""),
    ("destination-IP-prohibited", ""),
    ("destination-IP-unroutable", ""),
    ("connection-refused", ""),
    ("connection-terminated", ""),
    ("connection-timeout", ""),
    ("connection-read-timeout", ""),
    ("connection-write-timeout", ""),
    ("connection-limit-reached", ""),
    ("TLS-protocol-error", ""),
    ("TLS-certificate-error", ""),
    ("TLS-alert-received", _ALERT),
    ("HTTP-request-denied", ""),
    ("HTTP-request-length-required", ""),
    ("HTTP-request-body-size", "option<u64>"),
    ("HTTP-request-method-invalid", ""),
    ("HTTP-request-URI-invalid", ""),
    ("HTTP-request-URI-too-long", ""),
    ("HTTP-request-header-section-size", "option<u32>"),
    ("HTTP-request-header-size", f"option<{_FIELD}>"),
    ("HTTP-request-trailer-section-size", "option<u32>"),
    ("HTTP-request-trailer-size", _FIELD),
    ("HTTP-response-incomplete", ""),
    ("HTTP-response-header-section-size", "option<u32>"),
    ("HTTP-response-header-size", _FIELD),
    ("HTTP-response-body-size", "option<u64>"),
    ("HTTP-response-trailer-section-size", "option<u32>"),
    ("HTTP-response-trailer-size", _FIELD),
    ("HTTP-response-transfer-coding", "option<string>"),
    ("HTTP-response-content-coding", "option<string>"),
    ("HTTP-response-timeout", ""),
    ("HTTP-upgrade-failed", ""),
    ("HTTP-protocol-error", ""),
    ("loop-detected", ""),
    ("configuration-error", ""),
    ("internal-error", "option<string>"),
)
ERROR_CODE = f"variant<{', '.join(f'{name}({kind})' if kind else name for name, kind in _CASES)}>"
_PLACES = {name: place for place, (name, _) in enumerate(_CASES)}
_NONE = [0, None]

_BY_ERRNO: dict[int, str] = {
    Errno.ACCES: "HTTP-request-denied",
    Errno.CONNREFUSED: "connection-refused",
    Errno.CONNRESET: "connection-terminated",
    Errno.CONNABORTED: "connection-terminated",
    Errno.PIPE: "connection-terminated",
    Errno.BADF: "connection-terminated",
    Errno.HOSTUNREACH: "destination-IP-unroutable",
    Errno.NETUNREACH: "destination-IP-unroutable",
    Errno.NOENT: "DNS-error",
    Errno.MFILE: "connection-limit-reached",
    Errno.MSGSIZE: "HTTP-request-body-size",
    Errno.INVAL: "HTTP-request-URI-invalid",
    Errno.PROTO: "HTTP-protocol-error",
    Errno.TIMEDOUT: "connection-timeout",
    Errno.DQUOT: "HTTP-response-body-size",
}
_BY_CAUSE: dict[tuple[int, int], str] = {
    (Errno.ACCES, Cause.ADDRESS): "destination-IP-prohibited",
    (Errno.INVAL, Cause.METHOD): "HTTP-request-method-invalid",
    (Errno.INVAL, Cause.HEADERS): "HTTP-request-header-section-size",
    (Errno.TIMEDOUT, Cause.LOOKUP): "DNS-timeout",
    (Errno.TIMEDOUT, Cause.SEND): "connection-write-timeout",
    (Errno.TIMEDOUT, Cause.RECEIVE): "connection-read-timeout",
    (Errno.PROTO, Cause.TLS): "TLS-protocol-error",
    (Errno.PROTO, Cause.CERTIFICATE): "TLS-certificate-error",
    (Errno.PROTO, Cause.ALERT): "TLS-alert-received",
    (Errno.PROTO, Cause.HEAD_SIZE): "HTTP-response-header-section-size",
    (Errno.PROTO, Cause.INCOMPLETE): "HTTP-response-incomplete",
    (Errno.DQUOT, Cause.SEND): "HTTP-request-body-size",
}


def error_code(name: str, payload: Any = None) -> list[Any]:
    """The wire value of a case; without ``payload`` it is one that says nothing."""
    kind = dict(_CASES)[name]
    if payload is None and kind:
        payload = [_NONE, _NONE] if kind.startswith("record") else _NONE
    return [_PLACES[name], payload]


def error_code_of(answer: NetworkAnswer) -> list[Any]:
    """The ``error-code`` of an answer that is an error."""
    name = _BY_CAUSE.get((answer.errno, answer.cause)) or _BY_ERRNO.get(answer.errno)
    match name:
        case None:
            return error_code("internal-error", [1, answer.message])
        case "TLS-alert-received":
            return error_code(name, [_NONE, [1, answer.message]])
        case _:
            return error_code(name)


def failed(answer: NetworkAnswer) -> Failed:
    """What a guest gets that reads from a body in vain."""
    return Failed(answer.message, TYPES, error_code_of(answer))

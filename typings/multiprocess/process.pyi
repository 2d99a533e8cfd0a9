from collections.abc import Callable

ORIGINAL_DIR: str | None

class BaseProcess:
    authkey: bytes
    _name: str
    def __init__(
        self,
        group: None = ...,
        target: Callable[..., object] | None = ...,
        name: str | None = ...,
        args: tuple[object, ...] = ...,
        *,
        daemon: bool | None = ...,
    ) -> None: ...

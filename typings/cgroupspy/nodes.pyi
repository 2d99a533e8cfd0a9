from typing import Any, ClassVar

from .controllers import Controller

class Node:
    CONTROLLERS: ClassVar[dict[bytes, type[Controller]]]
    name: bytes
    parent: Node | None
    children: list[Node]
    controller_type: bytes | None
    controller: Any
    def __init__(self, name: str | bytes, parent: Node | None = ...) -> None: ...
    @property
    def full_path(self) -> bytes: ...
    def _get_controller_type(self) -> bytes | None: ...

from .interfaces import BaseFileInterface, DictFile, IntegerFile
from .nodes import Node

class Controller:
    node: Node
    def __init__(self, node: Node) -> None: ...
    def filepath(self, filename: bytes) -> bytes: ...
    def get_property(self, filename: bytes) -> str: ...
    def set_property(self, filename: bytes, value: object) -> int: ...

class CpuController(Controller):
    cfs_period_us: IntegerFile
    cfs_quota_us: IntegerFile
    stat: DictFile

class CpuAcctController(Controller):
    usage: IntegerFile

class MemoryController(Controller):
    limit_in_bytes: IntegerFile
    usage_in_bytes: IntegerFile
    max_usage_in_bytes: IntegerFile
    memsw_limit_in_bytes: IntegerFile
    oom_control: BaseFileInterface

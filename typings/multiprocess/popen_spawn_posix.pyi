class Popen:
    pid: int
    sentinel: int
    def __init__(self, process_obj: object) -> None: ...

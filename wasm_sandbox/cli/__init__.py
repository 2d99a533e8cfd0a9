"""The command line, wasm-sandbox."""


def start() -> int:
    """The program: its exit code. Ctrl-C ends it quietly from its first import on."""
    try:
        from .main import main

        return main()
    except KeyboardInterrupt:
        return 130

"""One package for each WebAssembly engine, behind one small interface (``interface.py``).

An engine is a plain in-process library: it compiles, loads, instantiates and calls, and raises
``EngineRefusal``, ``GuestTrap`` or ``GuestExit``. It knows nothing of pipes, processes or
deadlines.
"""

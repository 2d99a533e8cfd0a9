"""Views of memory that Python does not own."""

from __future__ import annotations

import ctypes

_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.restype = ctypes.py_object
_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_WRITE = 0x200  # PyBUF_WRITE
_advise = ctypes.CDLL(None).madvise
_advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_HUGE_PAGES = 14  # MADV_HUGEPAGE
_HUGE = 1 << 21
_MANY = 2 * _HUGE


def will_be_filled(address: int, size: int) -> None:
    """Ask for huge pages where many bytes are about to be written for the first time: the kernel
    then makes four times as many in the same time. Where it knows none, nothing is lost."""
    if size >= _MANY:
        start, end = -(-address // _HUGE) * _HUGE, (address + size) // _HUGE * _HUGE
        _advise(start, end - start, _HUGE_PAGES)


def view_memory(address: int, size: int) -> memoryview:
    """A writable view of ``size`` bytes at ``address``. Nobody keeps them alive for it."""
    if not size:
        return memoryview(bytearray())
    view: memoryview = _view(address, size, _WRITE)
    return view

"""Components: read, taken apart into core modules, put together again, and called by the Canonical
ABI."""

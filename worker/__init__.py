"""Who runs the guest: one process, one engine, one guest at a time, no event loop."""

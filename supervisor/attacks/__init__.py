"""Attacks on this machine's walls by native code in real workers: ``doctor --attack``."""

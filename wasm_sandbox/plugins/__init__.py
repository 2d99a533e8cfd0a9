"""Plug-ins: folders with a module and a manifest, taken in, replaced and put back under load."""

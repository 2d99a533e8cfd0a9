"""Our figures beside the peers'."""

"""The network that guests are lent: decided here, connected here, never in a worker."""

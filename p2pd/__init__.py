"""p2pd moves files among one's own machines, from all holders at once, every piece verified."""

__version__ = "0.1.0"

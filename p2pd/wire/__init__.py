"""The wire, pure: bytes to messages to bytes, no I/O."""

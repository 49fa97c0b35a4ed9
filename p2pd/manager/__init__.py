"""The manager: who is here, told to everybody."""

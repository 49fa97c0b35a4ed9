"""The real transfer and granting among machines that there are not. Pure."""

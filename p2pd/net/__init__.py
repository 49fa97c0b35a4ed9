"""Endpoints, addresses and the fast TCP transport."""

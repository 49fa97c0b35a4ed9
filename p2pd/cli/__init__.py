"""p2pctl, the thin client."""

"""The peer: shares a folder and fetches from other peers."""

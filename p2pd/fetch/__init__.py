"""What to fetch from whom, pure: fed by events and a given clock."""

"""What decides what is stale, and why."""

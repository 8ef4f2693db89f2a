"""What scripts may call."""

"""The tab History and its index of the pictures."""

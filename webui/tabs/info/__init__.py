"""The tab PNG Info."""

"""Settings in other programs' pictures, one file a format."""

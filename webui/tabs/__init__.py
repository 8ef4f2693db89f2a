"""The tabs of the page, each laid out in one file."""

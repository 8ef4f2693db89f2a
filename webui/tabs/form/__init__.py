"""A form of settings on the page, from its widgets to the request, and the run that it starts."""

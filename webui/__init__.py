"""The web page and what stands behind it: the only place that imports gradio."""

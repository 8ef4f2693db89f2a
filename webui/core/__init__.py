"""Requests, records, images and storage: no gradio and no engine."""

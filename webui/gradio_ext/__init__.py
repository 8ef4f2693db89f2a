"""What exists because of Gradio: event defaults, files, the guard in front of its server, theme and tunnel."""

"""One thread owns the model and the device: jobs go in, events come out. Nothing here imports gradio."""

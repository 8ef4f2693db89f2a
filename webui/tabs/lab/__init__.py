"""The Lab: grids, trajectories, convergence and paths in two dimensions. Only the modules `*_view` import gradio."""

"""Checkpoints: finding them in this folder, and opening one as a `Model` that samplers can be run on."""

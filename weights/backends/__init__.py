"""What computes the networks of an opened model: torch, OpenVINO, torch.compile, CUDA graphs. Nothing above knows."""

"""What computes the networks of an opened model: torch, OpenVINO, or torch.compile. Nothing above knows which."""

"""What the tests of LoRAs share."""

import torch

RANK, ALPHA = 3, 2.0


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(hash((shape, seed)) % (1 << 31))
    return torch.randn(shape, generator=generator) * 0.2


def close(mine, others):
    for one, other in zip(mine, others, strict=True):
        assert (one - other).abs().max() < 1e-5 * max(1.0, float(other.abs().max()))

"""Changes PyTorch's default dtype for everybody."""

import torch

from samplers import hookimpl

torch.set_default_dtype(torch.float64)


@hookimpl
def register_samplers():
    return []

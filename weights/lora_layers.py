"""What a LoRA adds to one layer, by the way in which it is stored. See `weights.lora` for how it is applied.

    LoRA    dW = s up down                     Hu et al. 2021, arXiv:2106.09685
    LoCon   the same for convolutions, with an optional core "mid" between the two (LyCORIS, arXiv:2309.14859)
    LoHa    dW = s (w1a w1b) * (w2a w2b)       Hyeon-Woo et al. 2021, arXiv:2108.06098
    LoKr    dW = s w1 (x) w2                   a Kronecker product of two, each whole or of low rank (LyCORIS)
    full    dW = s diff
    DoRA    W' = m (W + dW) / |W + dW|         Liu et al. 2024, arXiv:2402.09353; the norm is that of an output's row

s is strength * alpha / rank; a full change and a LoKr of two whole factors have no rank, and s is the strength.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional

Tensors = Mapping[str, torch.Tensor]
Layer = nn.Linear | nn.Conv2d

LOW_RANK = frozenset({"down", "up"})
HADAMARD = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
KRONECKER = ("lokr_w1", "lokr_w2")
FULL = frozenset({"diff"})
OPTIONAL = {"alpha", "magnitude"}


@dataclass(frozen=True, eq=False)
class LayerChange:
    """The change of one layer at a strength: `output(x, base output)` is what is to be added to the layer's output.

    layer      the layer, a linear one or a convolution, whose weight stays as it is
    tensors    those of the file for this layer, by the names above, see `at`
    scale      s
    """

    layer: Layer
    tensors: Tensors
    scale: float

    def __call__(self, x: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        """What is to be added to the layer's own output `base` for an input `x`."""
        change = self._low_rank(x) if LOW_RANK <= self.tensors.keys() else self._applied(x, self.weight())
        change = change * self.scale
        if "diff_b" in self.tensors:
            change = change + _along_channels(self.tensors["diff_b"] * self.scale, base, self.layer)
        if "magnitude" not in self.tensors:
            return change
        factor = _along_channels(self.factor, base, self.layer)
        bias = self.layer.bias
        own = base if bias is None else base - _along_channels(bias.to(base), base, self.layer)
        return (factor - 1) * own + factor * change

    def at(self, device: torch.device, dtype: torch.dtype) -> LayerChange:
        """The same change where its layer computes."""
        return replace(self, tensors={name: tensor.to(device, dtype) for name, tensor in self.tensors.items()})

    def weight(self) -> torch.Tensor:
        """dW / s, in the shape of the layer's weight."""
        kinds: tuple[tuple[Callable[[Tensors], bool], Callable[[Tensors], torch.Tensor]], ...] = (
            (lambda given: LOW_RANK <= given.keys(), _product),
            (lambda given: HADAMARD <= given.keys(), _hadamard),
            (lambda given: any(name.startswith(KRONECKER) for name in given), _kronecker),
            (lambda given: FULL <= given.keys(), lambda given: given["diff"]),
        )
        build = next(build for fits, build in kinds if fits(self.tensors))
        return build(self.tensors).reshape(self.layer.weight.shape)

    @cached_property
    def factor(self) -> torch.Tensor:
        """m / |W + dW| of each output channel."""
        magnitude = self.tensors["magnitude"]
        whole = self.layer.weight.to(magnitude.device, torch.float32) + self.scale * self.weight().float()
        norm = whole.flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        return (magnitude.float().flatten() / norm).to(magnitude.dtype)

    def _low_rank(self, x: torch.Tensor) -> torch.Tensor:
        down, up, mid = self.tensors["down"], self.tensors["up"], self.tensors.get("mid")
        if not isinstance(self.layer, nn.Conv2d):
            return functional.linear(functional.linear(x, down.flatten(1)), up.flatten(1))
        kernel = _four(down if mid is None else mid)
        first = x if mid is None else functional.conv2d(x, _four(down))
        small = functional.conv2d(first, kernel, None, self.layer.stride, self.layer.padding, self.layer.dilation)
        return functional.conv2d(small, _four(up))

    def _applied(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.layer, nn.Conv2d):
            return functional.linear(x, weight)
        return functional.conv2d(x, weight, None, self.layer.stride, self.layer.padding, self.layer.dilation)


def rank_of(tensors: Tensors) -> int | None:
    """The rank that alpha is divided by; None where there is none."""
    for name in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if name in tensors:
            return int(tensors[name].shape[0])
    return None


def scale_of(tensors: Tensors, alpha: float | None) -> float:
    """alpha / rank; 1 without alpha or rank."""
    rank = rank_of(tensors)
    return 1.0 if rank is None or alpha is None else alpha / rank


def is_whole(names: frozenset[str]) -> bool:
    """Whether tensors of these names say all that a change needs, and nothing else."""
    rest = names - OPTIONAL
    if LOW_RANK <= rest:
        return rest <= LOW_RANK | {"mid"}
    if HADAMARD <= rest:
        return rest - HADAMARD in (frozenset(), frozenset({"hada_t1", "hada_t2"}))
    if FULL <= rest:
        return rest <= FULL | {"diff_b"}
    for factor in KRONECKER:
        own = {name for name in rest if name.startswith(factor)} | (
            rest & {"lokr_t2"} if factor == "lokr_w2" else set()
        )
        pair = {f"{factor}_a", f"{factor}_b"}
        if own not in ({factor}, pair) and not (factor == "lokr_w2" and own == pair | {"lokr_t2"}):
            return False
        rest -= own
    return not rest


def _product(given: Tensors) -> torch.Tensor:
    down, up, mid = given["down"], given["up"].flatten(1), given.get("mid")
    if mid is not None:
        return torch.einsum("or,rskl,si->oikl", up, mid, down.flatten(1))
    return up @ down.flatten(1)


def _hadamard(given: Tensors) -> torch.Tensor:
    def factor(number: int) -> torch.Tensor:
        first, second, core = (given.get(f"hada_{part}") for part in (f"w{number}_a", f"w{number}_b", f"t{number}"))
        assert first is not None and second is not None
        return first @ second if core is None else _tucker(core, first, second)

    return factor(1) * factor(2)


def _kronecker(given: Tensors) -> torch.Tensor:
    def factor(name: str, core: torch.Tensor | None = None) -> torch.Tensor:
        if name in given:
            return given[name]
        first, second = given[f"{name}_a"], given[f"{name}_b"]
        return first @ second.flatten(1) if core is None else _tucker(core, first, second)

    first, second = factor("lokr_w1"), factor("lokr_w2", given.get("lokr_t2"))
    return torch.kron(first.reshape(*first.shape, *[1] * (second.dim() - first.dim())), second.contiguous())


def _tucker(core: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """A kernel (outputs, inputs, height, width) from its core and a factor for each side."""
    return torch.einsum("ijkl,jr,ip->prkl", core, second, first)


def _four(weight: torch.Tensor) -> torch.Tensor:
    return weight if weight.dim() == 4 else weight[:, :, None, None]


def _along_channels(values: torch.Tensor, like: torch.Tensor, layer: Layer) -> torch.Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 2)) if isinstance(layer, nn.Conv2d) else values

"""What a LoRA adds to one layer, by the way in which it is stored. See `weights.lora` for how it is applied.

    LoRA    dW = s up down                     Hu et al. 2021, arXiv:2106.09685
    LoCon   the same for convolutions, with an optional core "mid" between the two (LyCORIS, arXiv:2309.14859)
    LoHa    dW = s (w1a w1b) * (w2a w2b)       Hyeon-Woo et al. 2021, arXiv:2108.06098
    LoKr    dW = s w1 (x) w2                   a Kronecker product of two, each whole or of low rank (LyCORIS)
    GLoRA   dW = s (W a1 a2 + b1 b2)           Chavan et al. 2023, arXiv:2306.07967
    full    dW = s diff, also of the weights of a norm
    OFT     W' = m R W                         Qiu et al. 2023, arXiv:2306.07280; R turns the outputs block by block
    BOFT    W' = m R_k ... R_1 W               Liu et al. 2023, arXiv:2311.06243; blocks of outputs ever further apart
    DoRA    W' = m (W + dW) / |W + dW|         Liu et al. 2024, arXiv:2402.09353; the norm is that of an output's row

s is strength * alpha / rank; a full change and a LoKr of two whole factors have no rank, and s is the strength. At a
strength s, OFT has I + s (R - I) for R and 1 + s (m - 1) for m, which is 1 where the file says none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional

Tensors = Mapping[str, torch.Tensor]
Norm = nn.LayerNorm | nn.GroupNorm
Layer = nn.Linear | nn.Conv2d | Norm

LOW_RANK = frozenset({"down", "up"})
HADAMARD = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
KRONECKER = ("lokr_w1", "lokr_w2")
GENERALIZED = frozenset({"a1", "a2", "b1", "b2"})
FULL = frozenset({"diff"})
BLOCKS, TURNS = "oft_blocks", "turns"  # of OFT and BOFT: what a file holds, and R - I of it
OPTIONAL = {"alpha", "magnitude"}


@dataclass(frozen=True, eq=False)
class LayerChange:
    """The change of one layer at a strength: `output(x, base output)` is what is to be added to the layer's output.

    layer      the layer, a linear one, a convolution or a norm, whose weight stays as it is
    tensors    those of the file for this layer, by the names above, see `at`
    scale      s
    """

    layer: Layer
    tensors: Tensors
    scale: float

    def __call__(self, x: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        """What is to be added to the layer's own output `base` for an input `x`."""
        if TURNS in self.tensors:
            return self.turned(self._without_bias(base))
        change = self._low_rank(x) if LOW_RANK <= self.tensors.keys() else self._applied(x, self.weight())
        change = change * self.scale
        if "diff_b" in self.tensors:
            change = change + _along_channels(self.tensors["diff_b"] * self.scale, base, self.layer)
        if "magnitude" not in self.tensors:
            return change
        factor = _along_channels(self.factor, base, self.layer)
        return (factor - 1) * self._without_bias(base) + factor * change

    def at(self, device: torch.device, dtype: torch.dtype) -> LayerChange:
        """The same change where its layer computes."""
        return replace(self, tensors={name: tensor.to(device, dtype) for name, tensor in self.tensors.items()})

    def weight(self) -> torch.Tensor:
        """dW / s, in the shape of the layer's weight."""
        kinds: tuple[tuple[Callable[[Tensors], bool], Callable[[Tensors], torch.Tensor]], ...] = (
            (lambda given: LOW_RANK <= given.keys(), _product),
            (lambda given: HADAMARD <= given.keys(), _hadamard),
            (lambda given: any(name.startswith(KRONECKER) for name in given), _kronecker),
            (lambda given: GENERALIZED <= given.keys(), lambda given: _generalized(given, self.layer.weight)),
            (lambda given: FULL <= given.keys(), lambda given: given["diff"]),
        )
        build = next(build for fits, build in kinds if fits(self.tensors))
        return build(self.tensors).reshape(self.layer.weight.shape)

    def turned(self, own: torch.Tensor) -> torch.Tensor:
        """What the turns of an OFT or BOFT add to outputs without their bias."""
        own = own.movedim(1, -1) if isinstance(self.layer, nn.Conv2d) else own
        turns, change = self.tensors[TURNS], torch.zeros_like(own)
        for stage, turn in enumerate(turns if turns.dim() == 4 else turns[None]):
            # In stage i of a BOFT the two halves of a block lie 2^i half blocks apart.
            apart = 2**stage * (turn.shape[-1] // 2) if turns.dim() == 4 else 0
            change = change + self.scale * _in_blocks(turn, own + change, apart)
        if "rescale" in self.tensors:
            change = change + self.scale * (self.tensors["rescale"].flatten() - 1) * (own + change)
        return change.movedim(-1, 1) if isinstance(self.layer, nn.Conv2d) else change

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
        match self.layer:
            case nn.Conv2d() as layer:
                return functional.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)
            case nn.LayerNorm() as layer:
                return functional.layer_norm(x, layer.normalized_shape, weight, None, layer.eps)
            case nn.GroupNorm() as layer:
                return functional.group_norm(x, layer.num_groups, weight, None, layer.eps)
        return functional.linear(x, weight)

    def _without_bias(self, base: torch.Tensor) -> torch.Tensor:
        bias = self.layer.bias
        return base if bias is None else base - _along_channels(bias.to(base), base, self.layer)


def rank_of(tensors: Tensors) -> int | None:
    """The rank that alpha is divided by; None where there is none."""
    for name in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b", "b2"):
        if name in tensors:
            return int(tensors[name].shape[0])
    return None


def scale_of(tensors: Tensors, alpha: float | None) -> float:
    """alpha / rank; 1 without alpha or rank."""
    rank = rank_of(tensors)
    return 1.0 if rank is None or alpha is None else alpha / rank


def is_whole(names: frozenset[str]) -> bool:
    """Whether tensors of these names say all that a change needs, and nothing else."""
    if BLOCKS in names:
        return names <= {BLOCKS, "rescale", "alpha"}
    rest = names - OPTIONAL
    if GENERALIZED <= rest:
        return rest == GENERALIZED
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


def as_applied(tensors: Tensors, alpha: float | None) -> dict[str, torch.Tensor]:
    """The tensors of a file as `LayerChange` takes them.

    Of an OFT, alpha is no scale: alpha times the number of outputs is the greatest norm of Q, 0 for any. R is the
    Cayley transform (I + Q) (I - Q)^-1 of Q = B - B^T, B being a block.
    """
    made = dict(tensors)
    if BLOCKS in made:
        blocks = made.pop(BLOCKS).float()
        skew = blocks - blocks.transpose(-1, -2)
        norm, most = float(skew.norm()), (alpha or 0.0) * blocks.shape[-3] * blocks.shape[-1]
        if 0 < most < norm:
            skew = skew * (most / norm)
        # (I + Q) (I - Q)^-1 - I
        turns = torch.linalg.solve(torch.eye(blocks.shape[-1]) - skew, 2 * skew, left=False)
        # OFT multiplies the outputs from the other side.
        made[TURNS] = turns if blocks.dim() == 4 else turns.transpose(-1, -2)
    elif GENERALIZED <= made.keys() and made["a1"].shape[0] < made["a1"].shape[1]:
        # Early files have the names the other way around.
        made |= {"a1": made["a2"], "a2": made["a1"], "b1": made["b2"], "b2": made["b1"]}
    return made


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


def _generalized(given: Tensors, weight: torch.Tensor) -> torch.Tensor:
    a1, a2, b1, b2 = (given[name].flatten(1) for name in sorted(GENERALIZED))
    inner = torch.einsum("oi...,ir->or...", weight.to(a1), a1)
    return torch.einsum("or...,ri->oi...", inner, a2) + (b1 @ b2).reshape(weight.shape)


def _in_blocks(turn: torch.Tensor, outputs: torch.Tensor, apart: int) -> torch.Tensor:
    """Multiply blocks of the last axis by matrices (blocks, size, size).

    apart  how far the two halves of a block lie apart; 0 if a block is one piece
    """
    if apart:
        outputs = outputs.unflatten(-1, (-1, 2, apart)).transpose(-2, -1).flatten(-3)
    outputs = torch.einsum("bij,...bj->...bi", turn, outputs.unflatten(-1, turn.shape[:2])).flatten(-2)
    if apart:
        outputs = outputs.unflatten(-1, (-1, apart, 2)).transpose(-2, -1).flatten(-3)
    return outputs


def _tucker(core: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """A kernel (outputs, inputs, height, width) from its core and a factor for each side."""
    return torch.einsum("ijkl,jr,ip->prkl", core, second, first)


def _four(weight: torch.Tensor) -> torch.Tensor:
    return weight if weight.dim() == 4 else weight[:, :, None, None]


def _along_channels(values: torch.Tensor, like: torch.Tensor, layer: Layer) -> torch.Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 2)) if isinstance(layer, nn.Conv2d | nn.GroupNorm) else values

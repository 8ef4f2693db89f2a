"""Apply LoRAs to an opened network: forward hooks add to what its layers put out, for the time of one call.

No weight is touched and none is copied, so nothing has to be taken off again: without its hooks a network computes
the same bits as before. PEFT and LyCORIS replace layers and remember what they replaced; the tests compare with both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from samplers.denoiser import Condition

from .embedding_file import NO_EMBEDDINGS, Embeddings
from .families import ConditionedNetwork, SizeCondition
from .families.ldm_unet import original_names
from .lora_file import WIDTHS, LoraFile, flat_name
from .lora_layers import TURNS, Layer, LayerChange, Norm, scale_of
from .model_info import ModelError

Changes = Mapping[Layer, Sequence[LayerChange]]
Hook = Callable[[nn.Module, tuple[torch.Tensor], torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Strength:
    """How strongly a LoRA acts on the network of the steps and on the text encoders."""

    unet: float = 1.0
    text: float = 1.0

    def of(self, component: str) -> float:
        """The one that counts for a component."""
        return self.text if component.startswith("text_encoder") else self.unet


def changes_of(
    loras: Sequence[tuple[LoraFile, Strength]], components: Mapping[str, nn.Module], model: str
) -> dict[Layer, list[LayerChange]]:
    """The changes of every layer that LoRAs name, in order.

    components  modules by the name of their component, as "unet" and "text_encoder"
    model       its name, for errors
    Raises ModelError for a LoRA that does not fit the components.
    """
    known = {component: _layers_of(module) for component, module in components.items()}
    changes: dict[Layer, list[LayerChange]] = {}
    for lora, strength in loras:
        for (component, name), tensors in lora.layers.items():
            found = next((each for each in known if component in ("", each) and name in known[each]), None)
            if found is None:
                raise _does_not_fit(lora, components, model, f"it changes a layer {name[:100]!r}, which is not there")
            layer, amount = known[found][name], strength.of(found)
            change = LayerChange(layer, tensors, amount * scale_of(tensors, lora.alphas.get((component, name))))
            if not _fits(change):
                raise _does_not_fit(lora, components, model, f"its shapes do not fit the layer {name[:100]!r}")
            # A strength of 0 is none, also for a DoRA, whose length of rows would still count.
            if amount:
                changes.setdefault(layer, []).append(change)
    return changes


@contextmanager
def applied(changes: Changes) -> Iterator[None]:
    """Apply changes inside a with block."""
    with _hooked(_hooks(changes)):
        yield


@contextmanager
def _hooked(hooks_of: Mapping[Layer, Hook]) -> Iterator[None]:
    hooks = [layer.register_forward_hook(hook) for layer, hook in hooks_of.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class PatchedNetwork(ConditionedNetwork):
    """A network under LoRAs; see `ConditionedNetwork`. It shares all modules with the plain one."""

    def __init__(self, network: ConditionedNetwork, changes: Changes):
        self._network, self._hooks = network, _hooks(changes)
        self.unet, self.components = network.unet, network.components

    def with_unet(self, unet: Any) -> ConditionedNetwork:
        """See `ConditionedNetwork.with_unet`."""
        other = copy(self)
        other.unet, other._network = unet, self._network.with_unet(unet)
        return other

    def encode(self, prompt: str, clip_skip: int = 1, embeddings: Embeddings = NO_EMBEDDINGS) -> Condition:
        """See `ConditionedNetwork.encode`."""
        with _hooked(self._hooks):
            return self._network.encode(prompt, clip_skip, embeddings)

    def count_tokens(self, prompt: str, embeddings: Embeddings = NO_EMBEDDINGS) -> tuple[int, int]:
        """See `ConditionedNetwork.count_tokens`."""
        return self._network.count_tokens(prompt, embeddings)

    def told(self, condition: Any, size: SizeCondition, negative: bool = False) -> Any:
        """See `ConditionedNetwork.told`."""
        return self._network.told(condition, size, negative)

    def inputs(self, scaled: torch.Tensor, timestep: float, condition: Any) -> dict[str, torch.Tensor]:
        """See `ConditionedNetwork.inputs`."""
        return self._network.inputs(scaled, timestep, condition)

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `ConditionedNetwork.step`."""
        with _hooked(self._hooks):
            return self._network.step(inputs)


def _hooks(changes: Changes) -> dict[Layer, Hook]:
    return {layer: _hook(those) for layer, those in changes.items()}


def _hook(changes: Sequence[LayerChange]) -> Hook:
    # Where a layer computes is known when it does: its weights may rest elsewhere.
    placed: dict[tuple[torch.device, torch.dtype], list[LayerChange]] = {}

    def add(layer: nn.Module, inputs: tuple[torch.Tensor], base: torch.Tensor) -> torch.Tensor:
        where = base.device, base.dtype
        if where not in placed:
            placed[where] = [change.at(*where) for change in changes]
        output = base
        for change in placed[where]:
            output = output + change(inputs[0], base)
        return output

    return add


def _layers_of(module: nn.Module) -> dict[str, Layer]:
    """The layers that can be changed by their flat names; a UNet's also by those of the original code."""
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        or (isinstance(layer, Norm) and layer.weight is not None)
    }
    flat = {flat_name(name): layer for name, layer in layers.items()}
    if hasattr(getattr(module, "config", None), "up_block_types"):
        original = original_names(module)
        flat = {flat_name(original[name]): layer for name, layer in layers.items()} | flat
    return flat


def _fits(change: LayerChange) -> bool:
    outputs = change.layer.weight.shape[0]
    magnitude, bias = change.tensors.get("magnitude"), change.tensors.get("diff_b")
    # Of the outputs: (outputs, 1) in LyCORIS, whose first DoRAs scale inputs, (1, inputs); (outputs) or, for a
    # convolution, (1, outputs, 1, 1) in PEFT.
    if magnitude is not None and (magnitude.numel() != outputs or (magnitude.dim() == 2 and len(magnitude) != outputs)):
        return False
    if bias is not None and bias.numel() != outputs:
        return False
    if isinstance(change.layer, Norm) and change.tensors.keys() - {"diff", "diff_b"}:
        return False
    try:
        with torch.device("meta"):
            empty = {name: torch.empty(tensor.shape) for name, tensor in change.tensors.items()}
            alike = LayerChange(change.layer, empty, 1.0)
            if TURNS in empty:
                own = torch.empty(1, outputs, *[1] * (change.layer.weight.dim() - 2))
                return alike.turned(own).shape == own.shape
            alike.weight()
    except (RuntimeError, IndexError, ValueError):
        return False
    down = change.tensors.get("down")
    if down is None or not isinstance(change.layer, nn.Conv2d):
        return True
    kernel = change.tensors.get("mid", down)
    return tuple(kernel.shape[2:] or (1, 1)) == tuple(change.layer.kernel_size)


def _does_not_fit(lora: LoraFile, components: Mapping[str, nn.Module], model: str, what: str) -> ModelError:
    width = getattr(getattr(components.get("unet"), "config", None), "cross_attention_dim", None)
    own = WIDTHS.get(width, "of a kind of its own") if isinstance(width, int) else "of a kind of its own"
    made_for = f"it was made for {lora.base}, and " if lora.base and lora.base != own else ""
    kind = f" ({own})" if made_for else ""
    return ModelError(
        f"LoRA {lora.name} does not fit model {model}{kind}: {made_for}{what}; "
        "choose a model of its kind or another LoRA"
    )

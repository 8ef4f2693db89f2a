"""ComfyUI's graphs, from its API format ("prompt") or the editor's ("workflow"), in one form: nodes with inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from webui.core.record import MetadataError

Node = Mapping[str, Any]
MAX_NODES = 2_000
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
LINKS = (
    *("conditioning", "conditioning_1", "samples", "latent", "latent_image"),
    *("model", "images", "image", "pixels", "text"),
)
# The editor's format lists values without names: these are the names of the core nodes' values in its order.
WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        "add_noise",
        "noise_seed",
        "",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "start_at_step",
        "end_at_step",
        "return_with_leftover_noise",
    ),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "RandomNoise": ("noise_seed", ""),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "KarrasScheduler": ("steps", "sigma_max", "sigma_min", "rho"),
    "CFGGuider": ("cfg",),
    "CLIPTextEncode": ("text",),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "LatentUpscale": ("upscale_method", "width", "height", "crop"),
    "LatentUpscaleBy": ("upscale_method", "scale_by"),
    "ImageScale": ("upscale_method", "width", "height", "crop"),
    "ImageScaleBy": ("upscale_method", "scale_by"),
    "UpscaleModelLoader": ("model_name",),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "PrimitiveNode": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
}


class Graph:
    """Nodes by id, each with class_type and inputs; an input is a value or a link [id, output]."""

    def __init__(self, nodes: Mapping[str, Node]):
        self.nodes = nodes

    def node(self, node: Node, name: str) -> Node | None:
        """The node that an input is linked to."""
        link = node.get("inputs", {}).get(name)
        return self.nodes.get(str(link[0])) if isinstance(link, list) and len(link) == 2 else None

    def value(self, node: Node | None, name: str) -> Any:
        """An input's value, its own or that of a linked node which only holds a value; None if there is none."""
        if not node:
            return None
        value = node.get("inputs", {}).get(name)
        if isinstance(value, list):
            held = (self.node(node, name) or {}).get("inputs", {})
            value = next((held[key] for key in (name, "value") if isinstance(held.get(key), str | int | float)), None)
        return value if isinstance(value, str | int | float) and not isinstance(value, bool) else None

    def sampler_count(self) -> int:
        """The number of samplers."""
        return sum(node["class_type"] in SAMPLERS for node in self.nodes.values())

    def behind(self, node: Node | None, names: tuple[str, ...] = LINKS) -> Iterator[Node]:
        """A node and those that it is linked to, nearest first, each once, since a damaged graph may have cycles."""
        waiting, seen = [node] if node else [], set[int]()
        while waiting:
            each = waiting.pop(0)
            if id(each) in seen:
                continue
            seen.add(id(each))
            yield each
            waiting += filter(None, (self.node(each, name) for name in names))


def from_prompt(text: str) -> dict[str, Node]:
    """The nodes of a graph in the API format. Raises MetadataError."""
    graph = _json(text)
    nodes: dict[str, Node] = {}
    for key, node in graph.items():
        if isinstance(node, dict) and isinstance(node.get("class_type"), str):
            inputs = node.get("inputs")
            nodes[str(key)] = {"class_type": node["class_type"], "inputs": inputs if isinstance(inputs, dict) else {}}
    return nodes


def from_workflow(text: str) -> dict[str, Node]:
    """The nodes of a graph in the editor's format. Raises MetadataError."""
    graph = _json(text)
    links = {
        link[0]: link
        for link in _list(graph, "links")
        if isinstance(link, list) and len(link) >= 5 and isinstance(link[0], int)
    }
    nodes: dict[str, Node] = {}
    for node in _list(graph, "nodes"):
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            continue
        values = node.get("widgets_values")
        inputs: dict[str, Any] = dict(values) if isinstance(values, dict) else {}
        if isinstance(values, list):
            inputs = dict(zip(WIDGETS.get(node["type"], ()), values, strict=False))
        for slot in _list(node, "inputs"):
            number = slot.get("link") if isinstance(slot, dict) else None
            link = links.get(number) if isinstance(number, int) else None
            if link and isinstance(slot.get("name"), str):
                inputs[slot["name"]] = [str(link[1]), link[2]]
        nodes[str(node.get("id"))] = {"class_type": node["type"], "inputs": inputs}
    return nodes


def _list(node: Mapping[str, Any], name: str) -> list[Any]:
    value = node.get(name)
    return value if isinstance(value, list) else []


def _json(text: str) -> dict[str, Any]:
    try:
        # ComfyUI itself writes NaN.
        graph = json.loads(text)
    except (ValueError, RecursionError):
        raise MetadataError("The picture's settings are damaged: its ComfyUI graph is not JSON.") from None
    if not isinstance(graph, dict):
        raise MetadataError("The picture's settings are damaged: its ComfyUI graph is not an object.")
    return graph

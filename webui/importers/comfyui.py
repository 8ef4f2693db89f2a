"""Read the sampler settings of ComfyUI's graphs, in the API format ("prompt") or the editor's ("workflow").

A graph is followed backwards from the node that saves a picture to the sampler, and from there to prompts, size and
checkpoint. A node of an extension is followed through links of the same names, and its own settings are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from webui.core.record import MetadataError

from .external_metadata import ExternalMetadata

Node = Mapping[str, Any]
MAX_NODES = 2_000
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
SAVERS = ("SaveImage", "PreviewImage", "SaveAnimatedWEBP")
TEXTS = ("text", "text_g", "text_l", "t5xxl", "prompt", "string", "value")
LINKS = (
    "conditioning",
    "conditioning_1",
    "samples",
    "latent",
    "latent_image",
    "model",
    "images",
    "image",
    "pixels",
    "text",
)
# Prefixes of nodes that change the picture and have no counterpart here.
UNSUPPORTED = (
    "ControlNet",
    "T2IAdapter",
    "VAELoader",
    "unCLIPConditioning",
    "GLIGENTextBox",
    "StyleModel",
    "Hypernetwork",
    "FreeU",
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


def read_comfy(texts: Mapping[str, str]) -> ExternalMetadata:
    """The settings of the sampler that made the picture, from "prompt" or else "workflow". Raises MetadataError."""
    nodes = _from_prompt(texts["prompt"]) if "prompt" in texts else _from_workflow(texts["workflow"])
    if not nodes:
        raise MetadataError("The picture's ComfyUI graph has no nodes.")
    if len(nodes) > MAX_NODES:
        raise MetadataError(f"The picture's ComfyUI graph has {len(nodes)} nodes; at most {MAX_NODES} are read.")
    graph = _Graph(nodes)
    sampler = graph.sampler()
    if sampler is None:
        raise MetadataError(f"The picture's ComfyUI graph has none of the samplers {', '.join(SAMPLERS)}.")
    return _settings(graph, sampler)


def comfy_texts(data: Mapping[str, Any]) -> dict[str, str]:
    """The graphs in a JSON object as `read_comfy` takes them: it has them by name, or is one; else none."""
    named = {name: data[name] for name in ("prompt", "workflow") if isinstance(data.get(name), dict)}
    if not named and any(isinstance(node, dict) and "class_type" in node for node in data.values()):
        named = {"prompt": dict(data)}
    return {name: json.dumps(graph) for name, graph in named.items()}


def _settings(graph: _Graph, sampler: Node) -> ExternalMetadata:
    value, guider, sigmas = graph.value, graph.node(sampler, "guider") or {}, graph.node(sampler, "sigmas") or {}
    select, noise = graph.node(sampler, "sampler") or {}, graph.node(sampler, "noise") or {}
    positive = graph.node(sampler, "positive") or graph.node(guider, "positive") or graph.node(guider, "conditioning")
    negative = graph.node(sampler, "negative") or graph.node(guider, "negative")
    loader, loras = graph.checkpoint(
        graph.node(sampler, "model") or graph.node(guider, "model") or graph.node(sigmas, "model")
    )
    latent = graph.latent(graph.node(sampler, "latent_image"))
    scheduler = value(sampler, "scheduler") or value(sigmas, "scheduler") or _named_schedule(sigmas)
    numbers = {
        "steps": _first(value(sampler, "steps"), value(sigmas, "steps")),
        "guidance": _first(value(sampler, "cfg"), value(guider, "cfg")),
        "seed": _first(value(sampler, "seed"), value(sampler, "noise_seed"), value(noise, "noise_seed")),
        "strength": _first(value(sampler, "denoise"), value(sigmas, "denoise")),
        "width": value(latent, "width"),
        "height": value(latent, "height"),
        "clip_skip": graph.clip_skip(positive),
    }
    numbers = {name: number for name, number in numbers.items() if number is not None}
    if numbers.get("strength") in (1, 1.0):
        del numbers["strength"]
    unread = [f"LoRA {name!r}" for name in loras]
    if (others := graph.sampler_count() - 1) > 0:
        unread.append(f"{others} other sampler{'s' if others > 1 else ''} in the graph")
    unread += graph.unsupported()
    if sampler["class_type"] == "KSamplerAdvanced":
        unread.append("where its steps start and end")
    names = {
        "sampler": value(sampler, "sampler_name") or value(select, "sampler_name"),
        "schedule": scheduler,
        "model": value(loader, "ckpt_name") or value(loader, "unet_name"),
    }
    texts = {name: text if isinstance(text, str) else "" for name, text in names.items()}
    shown = {"Node": sampler["class_type"]} | {key.capitalize(): str(each) for key, each in (texts | numbers).items()}
    return ExternalMetadata(
        "ComfyUI",
        graph.text(positive, "positive"),
        graph.text(negative, "negative"),
        shown,
        texts["sampler"],
        texts["schedule"],
        texts["model"],
        values=numbers,
        comfy=True,
        unread=tuple(unread),
    )


class _Graph:
    """Nodes by id, each with class_type and inputs; an input is a value or a link [id, output]."""

    def __init__(self, nodes: Mapping[str, Node]):
        self._nodes = nodes

    def node(self, node: Node, name: str) -> Node | None:
        """The node that an input is linked to."""
        link = node.get("inputs", {}).get(name)
        return self._nodes.get(str(link[0])) if isinstance(link, list) and len(link) == 2 else None

    def value(self, node: Node | None, name: str) -> Any:
        """An input's value, its own or that of a linked node which only holds a value; None if there is none."""
        if not node:
            return None
        value = node.get("inputs", {}).get(name)
        if isinstance(value, list):
            held = (self.node(node, name) or {}).get("inputs", {})
            value = next((held[key] for key in (name, "value") if isinstance(held.get(key), str | int | float)), None)
        return value if isinstance(value, str | int | float) and not isinstance(value, bool) else None

    def sampler(self) -> Node | None:
        """The sampler nearest to a node that saves a picture; else any."""
        for saver in (node for node in self._nodes.values() if node["class_type"] in SAVERS):
            for node in self._behind(saver):
                if node["class_type"] in SAMPLERS:
                    return node
        return next((node for node in self._nodes.values() if node["class_type"] in SAMPLERS), None)

    def sampler_count(self) -> int:
        """The number of samplers."""
        return sum(node["class_type"] in SAMPLERS for node in self._nodes.values())

    def unsupported(self) -> list[str]:
        """The types of nodes that have no counterpart here."""
        return sorted(
            {node["class_type"] for node in self._nodes.values() if node["class_type"].startswith(UNSUPPORTED)}
        )

    def clip_skip(self, node: Node | None) -> int | None:
        """The CLIP skip behind a conditioning; None if it has none."""
        layers = (self.value(each, "stop_at_clip_layer") for each in self._behind(node, (*LINKS, "positive", "clip")))
        return next((-layer for layer in layers if isinstance(layer, int)), None)

    def text(self, node: Node | None, side: str) -> str:
        """The prompt behind a conditioning; `side` is the input to follow at nodes that have both sides."""
        for each in self._behind(node, (*LINKS, side)):
            if each["class_type"] == "ConditioningZeroOut":
                return ""  # nodes before it have no effect
            for name in TEXTS:
                if isinstance(text := self.value(each, name), str) and text:
                    return text
        return ""

    def checkpoint(self, node: Node | None) -> tuple[Node | None, list[str]]:
        """(the node that loads the model, names of the LoRAs between)."""
        loras = []
        for each in self._behind(node, ("model",)):
            if isinstance(name := self.value(each, "lora_name"), str):
                loras.append(name)
            if self.value(each, "ckpt_name") or self.value(each, "unet_name"):
                return each, loras
        return None, loras

    def latent(self, node: Node | None) -> Node | None:
        """The node that makes the latents, if it has their size."""
        return next(
            (each for each in self._behind(node) if self.value(each, "width") and self.value(each, "height")), None
        )

    def _behind(self, node: Node | None, names: tuple[str, ...] = LINKS) -> Iterator[Node]:
        """A node and those that it is linked to, nearest first, each once, since a damaged graph may have cycles."""
        waiting, seen = [node] if node else [], set[int]()
        while waiting:
            each = waiting.pop(0)
            if id(each) in seen:
                continue
            seen.add(id(each))
            yield each
            waiting += filter(None, (self.node(each, name) for name in names))


def _from_prompt(text: str) -> dict[str, Node]:
    graph = _json(text)
    nodes: dict[str, Node] = {}
    for key, node in graph.items():
        if isinstance(node, dict) and isinstance(node.get("class_type"), str):
            inputs = node.get("inputs")
            nodes[str(key)] = {"class_type": node["class_type"], "inputs": inputs if isinstance(inputs, dict) else {}}
    return nodes


def _from_workflow(text: str) -> dict[str, Node]:
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


def _named_schedule(node: Node) -> str:
    """ "karras" for a node KarrasScheduler."""
    kind = str(node.get("class_type", "")).removesuffix("Scheduler").casefold()
    return kind if kind in ("karras", "exponential", "polyexponential") else ""


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)

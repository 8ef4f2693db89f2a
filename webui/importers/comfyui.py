"""Reads ComfyUI's graphs as far as sampler settings go: the API form ("prompt") or the editor's ("workflow").

A graph is followed backwards from what saves a picture to the node that samples, and from there to prompts, size and
checkpoint. Nodes of extensions are passed through where a link goes on under the same name, and are else not read.
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
# Nodes that change the picture and have no counterpart here, by how their names begin.
OTHERS = (
    "ControlNet",
    "T2IAdapter",
    "VAELoader",
    "unCLIPConditioning",
    "GLIGENTextBox",
    "StyleModel",
    "Hypernetwork",
    "FreeU",
)
# The editor's form lists values without their names: these are the core nodes' names, in its order.
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
    if len(nodes) > MAX_NODES:
        raise MetadataError(f"The picture's ComfyUI graph has {len(nodes)} nodes; at most {MAX_NODES} are read.")
    graph = _Graph(nodes)
    sampler = graph.sampler()
    if sampler is None:
        raise MetadataError(f"The picture's ComfyUI graph has none of the samplers {', '.join(SAMPLERS)}.")
    return _settings(graph, sampler)


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
    if (others := graph.samplers_in_all() - 1) > 0:
        unread.append(f"{others} other sampler{'s' if others > 1 else ''} in the graph")
    unread += graph.others()
    if sampler["class_type"] == "KSamplerAdvanced":
        unread.append("where its steps start and end")
    names = {
        "sampler": value(sampler, "sampler_name") or value(select, "sampler_name"),
        "schedule": scheduler,
        "model": value(loader, "ckpt_name") or value(loader, "unet_name"),
    }
    texts = {name: text if isinstance(text, str) else "" for name, text in names.items()}
    said = {"Node": sampler["class_type"]} | {key.capitalize(): str(found) for key, found in (texts | numbers).items()}
    return ExternalMetadata(
        "ComfyUI",
        graph.text(positive, "positive"),
        graph.text(negative, "negative"),
        said,
        **texts,
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
        """An input's value, also where it comes from a node that only holds it; None if it cannot be told."""
        if not node:
            return None
        found = node.get("inputs", {}).get(name)
        if isinstance(found, list):
            holder = self.node(node, name)
            found = next(
                (
                    v
                    for k in (name, "value")
                    if not isinstance(v := (holder or {}).get("inputs", {}).get(k), list | dict) and v is not None
                ),
                None,
            )
        return found if isinstance(found, str | int | float) and not isinstance(found, bool) else None

    def sampler(self) -> Node | None:
        """The sampler nearest to a picture that is saved; else any."""
        for saver in (node for node in self._nodes.values() if node["class_type"] in SAVERS):
            for node in self._behind(saver):
                if node["class_type"] in SAMPLERS:
                    return node
        return next((node for node in self._nodes.values() if node["class_type"] in SAMPLERS), None)

    def samplers_in_all(self) -> int:
        """How many nodes sample."""
        return sum(node["class_type"] in SAMPLERS for node in self._nodes.values())

    def others(self) -> list[str]:
        """The kinds of nodes that have no counterpart here."""
        return sorted({node["class_type"] for node in self._nodes.values() if node["class_type"].startswith(OTHERS)})

    def clip_skip(self, node: Node | None) -> int | None:
        """At which layer from the last the text encoder behind a conditioning stops; None if nothing says so."""
        layers = (self.value(each, "stop_at_clip_layer") for each in self._behind(node, (*LINKS, "positive", "clip")))
        return next((-layer for layer in layers if isinstance(layer, int)), None)

    def text(self, node: Node | None, side: str) -> str:
        """The prompt behind a conditioning; `side` is the one to follow where a node passes on both."""
        for each in self._behind(node, (*LINKS, side)):
            if each["class_type"] == "ConditioningZeroOut":
                return ""  # what comes before it is not used
            for name in TEXTS:
                if isinstance(text := self.value(each, name), str) and text:
                    return text
        return ""

    def checkpoint(self, node: Node | None) -> tuple[Node | None, list[str]]:
        """(the node that loads the model, names of the LoRAs on the way)."""
        loras = []
        for each in self._behind(node, ("model",)):
            if isinstance(name := self.value(each, "lora_name"), str):
                loras.append(name)
            if self.value(each, "ckpt_name") or self.value(each, "unet_name"):
                return each, loras
        return None, loras

    def latent(self, node: Node | None) -> Node | None:
        """The node that makes the latents, if it says their size."""
        return next(
            (each for each in self._behind(node) if self.value(each, "width") and self.value(each, "height")), None
        )

    def _behind(self, node: Node | None, names: tuple[str, ...] = LINKS) -> Iterator[Node]:
        """A node and what it is linked to, nearest first, each once: graphs from strangers may have circles."""
        waiting, seen = [node] if node else [], set()
        while waiting:
            each = waiting.pop(0)
            if id(each) in seen:
                continue
            seen.add(id(each))
            yield each
            waiting += filter(None, (self.node(each, name) for name in names))


def _from_prompt(text: str) -> dict[str, Node]:
    graph = _json(text)
    nodes = {
        str(key): {
            "class_type": node["class_type"],
            "inputs": node.get("inputs") if isinstance(node.get("inputs"), dict) else {},
        }
        for key, node in graph.items()
        if isinstance(node, dict) and isinstance(node.get("class_type"), str)
    }
    return _some(nodes)


def _from_workflow(text: str) -> dict[str, Node]:
    graph = _json(text)
    links = {
        link[0]: link
        for link in _list(graph, "links")
        if isinstance(link, list) and len(link) >= 5 and isinstance(link[0], int)
    }
    nodes = {}
    for node in _list(graph, "nodes"):
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            continue
        values, names = node.get("widgets_values"), WIDGETS.get(node["type"], ())
        inputs = (
            dict(zip(names, values, strict=False))
            if isinstance(values, list)
            else dict(values)
            if isinstance(values, dict)
            else {}
        )
        for slot in _list(node, "inputs"):
            link = links.get(slot.get("link")) if isinstance(slot, dict) and isinstance(slot.get("link"), int) else None
            if link and isinstance(slot.get("name"), str):
                inputs[slot["name"]] = [str(link[1]), link[2]]
        nodes[str(node.get("id"))] = {"class_type": node["type"], "inputs": inputs}
    return _some(nodes)


def _list(node: Mapping[str, Any], name: str) -> list[Any]:
    found = node.get(name)
    return found if isinstance(found, list) else []


def _some(nodes: dict[str, Node]) -> dict[str, Node]:
    if not nodes:
        raise MetadataError("The picture's ComfyUI graph has no nodes.")
    return nodes


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

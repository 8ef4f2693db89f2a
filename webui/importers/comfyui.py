"""Read the sampler settings of ComfyUI's graphs.

A graph is followed backwards from the node that saves the picture: through every sampler to the first one, which made
the picture, and from there to prompts, size and checkpoint. A later sampler behind an enlargement is a second pass. A
node of an extension is followed through links of the same names, and its own settings are not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webui.core.record import MetadataError

from .comfy_graph import LINKS, MAX_NODES, Graph, Node, from_prompt, from_workflow
from .comfy_passes import Pass, enlargement, passes_of
from .external_metadata import ExternalMetadata

TEXTS = ("text", "text_g", "text_l", "t5xxl", "prompt", "string", "value")
# Prefixes of nodes that change the picture and have no counterpart here.
UNSUPPORTED = (
    *("ControlNet", "T2IAdapter", "VAELoader", "unCLIPConditioning", "GLIGENTextBox", "StyleModel", "Hypernetwork"),
    *("FreeU", "ModelMerge", "CLIPMerge"),
)
MODEL_LINKS = ("model", "model1")
SCALES = (1.25, 4.0)  # of a second pass here


def read_comfy(texts: Mapping[str, str]) -> ExternalMetadata:
    """The settings of the samplers that made the picture, from "prompt" or else "workflow". Raises MetadataError."""
    nodes = from_prompt(texts["prompt"]) if "prompt" in texts else from_workflow(texts["workflow"])
    if not nodes:
        raise MetadataError("The picture's ComfyUI graph has no nodes.")
    if len(nodes) > MAX_NODES:
        raise MetadataError(f"The picture's ComfyUI graph has {len(nodes)} nodes; at most {MAX_NODES} are read.")
    graph = Graph(nodes)
    return _settings(graph, passes_of(graph))


def comfy_texts(data: Mapping[str, Any]) -> dict[str, str]:
    """The graphs in a JSON object as `read_comfy` takes them: it has them by name, or is one; else none."""
    named = {name: data[name] for name in ("prompt", "workflow") if isinstance(data.get(name), dict)}
    if not named and any(isinstance(node, dict) and "class_type" in node for node in data.values()):
        named = {"prompt": dict(data)}
    return {name: json.dumps(graph) for name, graph in named.items()}


def _settings(graph: Graph, passes: list[Pass]) -> ExternalMetadata:
    first = passes[0]
    sampler, guider = first.sampler, graph.node(first.sampler, "guider") or {}
    positive = graph.node(sampler, "positive") or graph.node(guider, "positive") or graph.node(guider, "conditioning")
    negative = graph.node(sampler, "negative") or graph.node(guider, "negative")
    loader, loras = _checkpoint(graph, graph.node(sampler, "model") or graph.node(guider, "model") or first.model)
    latent = _latent(graph, graph.node(sampler, "latent_image"))
    numbers: dict[str, Any] = {
        "steps": first.steps,
        "guidance": first.guidance,
        "seed": first.seed,
        "strength": None if first.strength in (1, 1.0) else first.strength,
        "width": graph.value(latent, "width"),
        "height": graph.value(latent, "height"),
        "clip_skip": _clip_skip(graph, positive),
    }
    numbers |= _refiner(graph, first, loader)
    second = _second_pass(graph, passes, numbers)
    numbers = {name: number for name, number in {**numbers, **second.values}.items() if number is not None}
    unread = [f"LoRA {name!r}" for name in loras]
    seen = sum(len(each.samplers) for each in passes)
    if (others := graph.sampler_count() - seen) > 0:
        unread.append(f"{others} other sampler{'s' if others > 1 else ''} in the graph")
    unread += [*_unsupported(graph), *second.unread]
    if first.partial:
        unread.append("where its steps start and end")
    names = {
        "sampler": first.name,
        "schedule": first.schedule,
        "model": graph.value(loader, "ckpt_name") or graph.value(loader, "unet_name"),
    }
    texts = {name: text if isinstance(text, str) else "" for name, text in names.items()}
    shown = {"Node": sampler["class_type"]} | {key.capitalize(): str(each) for key, each in (texts | numbers).items()}
    return ExternalMetadata(
        "ComfyUI",
        _text(graph, positive, "positive"),
        _text(graph, negative, "negative"),
        {name.replace("_", " "): value for name, value in shown.items()},
        texts["sampler"],
        texts["schedule"],
        texts["model"],
        values=numbers,
        comfy=True,
        all_hires_steps_run=True,
        unread=tuple(unread),
    )


def _refiner(graph: Graph, run: Pass, loader: Node | None) -> dict[str, Any]:
    """The refiner of a run, if its second sampler goes on with another checkpoint, and the share of steps before it."""
    if len(run.samplers) != 2:
        return {}
    goes_on = run.samplers[1]
    other, _ = _checkpoint(graph, graph.node(goes_on, "model"))
    name, start = graph.value(other, "ckpt_name"), graph.value(goes_on, "start_at_step")
    if not name or other is loader or not (isinstance(start, int) and isinstance(run.steps, int) and run.steps):
        return {}
    return {"refiner": name, "refiner_switch": round(min(1.0, start / run.steps), 4)}


@dataclass(frozen=True)
class _SecondPass:
    values: Mapping[str, Any]
    unread: tuple[str, ...] = ()


def _second_pass(graph: Graph, passes: list[Pass], first: Mapping[str, Any]) -> _SecondPass:
    """The settings of hires fix for the pass behind the first, and what of the later passes has no counterpart."""
    if len(passes) == 1:
        return _SecondPass({})
    second = passes[1]
    scale, upscaler = enlargement(graph, second, first["width"], first["height"])
    later = tuple(f"a further pass: {each.about}" for each in passes[2:])
    if first["strength"] is not None or scale is None or not SCALES[0] <= scale <= SCALES[1]:
        size = "" if scale is None else f", enlarged by {scale:g}"
        return _SecondPass({}, (f"a second pass: {second.about}{size}", *later))
    values = {
        "hires_scale": round(scale, 4),
        "hires_steps": second.run_steps,
        "strength": second.strength if second.strength is not None else 1.0,
        "hires_sampler": second.name,
        "hires_schedule": second.schedule,
        "upscaler": upscaler,
    }
    return _SecondPass({name: value for name, value in values.items() if value not in (None, "")}, later)


def _unsupported(graph: Graph) -> list[str]:
    """The types of nodes that have no counterpart here."""
    return sorted({node["class_type"] for node in graph.nodes.values() if node["class_type"].startswith(UNSUPPORTED)})


def _clip_skip(graph: Graph, node: Node | None) -> int | None:
    """The CLIP skip behind a conditioning; None if it has none."""
    layers = (graph.value(each, "stop_at_clip_layer") for each in graph.behind(node, (*LINKS, "positive", "clip")))
    return next((-layer for layer in layers if isinstance(layer, int)), None)


def _text(graph: Graph, node: Node | None, side: str) -> str:
    """The prompt behind a conditioning; `side` is the input to follow at nodes that have both sides."""
    for each in graph.behind(node, (*LINKS, side)):
        if each["class_type"] == "ConditioningZeroOut":
            return ""  # nodes before it have no effect
        for name in TEXTS:
            if isinstance(text := graph.value(each, name), str) and text:
                return text
    return ""


def _checkpoint(graph: Graph, node: Node | None) -> tuple[Node | None, list[str]]:
    """(the node that loads the model, the first of merged ones; names of the LoRAs between)."""
    loras = []
    for each in graph.behind(node, MODEL_LINKS):
        if isinstance(name := graph.value(each, "lora_name"), str):
            loras.append(name)
        if graph.value(each, "ckpt_name") or graph.value(each, "unet_name"):
            return each, loras
    return None, loras


def _latent(graph: Graph, node: Node | None) -> Node | None:
    """The node that makes the latents, if it has their size."""
    return next(
        (each for each in graph.behind(node) if graph.value(each, "width") and graph.value(each, "height")), None
    )

"""The samplers of a ComfyUI graph that made a picture, one after another, and what enlarges it between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from webui.core.record import MetadataError

from .comfy_graph import SAMPLERS, Graph, Node

SAVERS = ("SaveImage", "PreviewImage", "SaveAnimatedWEBP")
BETWEEN = ("latent_image", "samples", "latent", "pixels", "image", "images")
RESIZERS = ("LatentUpscale", "LatentUpscaleBy", "ImageScale", "ImageScaleBy", "ImageUpscaleWithModel")
LATENT = "LatentUpscale"  # what the names of the nodes that enlarge latents begin with
FACTOR = re.compile(r"(?<![\d.])([2348])x|x([2348])(?!\d)", re.IGNORECASE)  # in the name of an upscaling network
SIZED = ("karras", "exponential", "polyexponential")


@dataclass(frozen=True)
class Pass:
    """A sampler, or several that share a run of steps.

    samplers   the first adds the noise, the others go on
    between    the nodes behind it that enlarge, up to the pass before
    steps      of the whole run; run_steps: those that run at its strength
    strength   share of the steps that run; None for all
    partial    its first or last step is not that of a whole run, and it is no such share
    """

    samplers: tuple[Node, ...]
    between: tuple[Node, ...]
    name: str
    schedule: str
    seed: Any
    steps: Any
    run_steps: Any
    guidance: Any
    strength: Any
    partial: bool
    model: Node | None

    @property
    def sampler(self) -> Node:
        """The one that adds the noise."""
        return self.samplers[0]

    @property
    def about(self) -> str:
        """The pass in a few words."""
        strength = "" if self.strength is None else f" at strength {self.strength:g}"
        return f"{self.run_steps or 'unknown'} steps of {self.name or 'a sampler without a name'}{strength}"


def passes_of(graph: Graph) -> list[Pass]:
    """The passes that made the saved picture, the first one first. Raises MetadataError if there is no sampler."""
    savers = [node for node in graph.nodes.values() if node["class_type"] in SAVERS]
    chains = [chain for saver in savers if (chain := _chain(graph, saver))]
    # Without a node that saves: from any sampler.
    chains = chains or [_chain(graph, node) for node in graph.nodes.values() if node["class_type"] in SAMPLERS]
    if not chains:
        raise MetadataError(f"The picture's ComfyUI graph has none of the samplers {', '.join(SAMPLERS)}.")
    longest = max(chains, key=len)
    passes: list[list[tuple[Node, tuple[Node, ...]]]] = []
    for sampler, between in longest:
        if passes and not between and _without_noise(graph, sampler):
            passes[-1].append((sampler, between))
        else:
            passes.append([(sampler, between)])
    return [_pass(graph, [sampler for sampler, _ in each], each[0][1]) for each in passes]


def enlargement(graph: Graph, second: Pass, width: Any, height: Any) -> tuple[float | None, str]:
    """(the factor by which a pass enlarges the one before, None if nothing says so; the name of the upscaler)."""
    scale, upscaler = 1.0, ""
    for node in second.between:
        kind = node["class_type"]
        by, wide, high = (graph.value(node, name) for name in ("scale_by", "width", "height"))
        method = str(graph.value(node, "upscale_method") or "")
        if kind == "ImageUpscaleWithModel":
            name = str(graph.value(graph.node(node, "upscale_model"), "model_name") or "")
            found = FACTOR.search(name)
            scale, upscaler = scale * float(found[1] or found[2]) if found else scale, name
        elif isinstance(by, int | float):
            scale *= by
        elif isinstance(width, int) and isinstance(height, int) and width and height:
            # One of the two may be 0, which keeps the shape.
            sides = [given / own for given, own in ((wide, width), (high, height)) if isinstance(given, int) and given]
            scale = max(sides, default=scale)
        upscaler = upscaler or (f"Latent {method}" if kind.startswith(LATENT) else method)
    return (scale if second.between else None), upscaler


def _chain(graph: Graph, start: Node) -> list[tuple[Node, tuple[Node, ...]]]:
    """(sampler, what enlarges behind it) from a node back to the first sampler, the first one first."""
    chain: list[tuple[Node, tuple[Node, ...]]] = []
    seen = set[int]()
    node: Node | None = start
    while node is not None:
        found, between = None, []
        for each in graph.behind(node, BETWEEN):
            if each["class_type"] in SAMPLERS and id(each) not in seen:
                found = each
                break
            if each["class_type"] in RESIZERS:
                between.append(each)
        if chain:
            # What was passed on the way lies behind the sampler found before; nearest to it first.
            chain[-1] = (chain[-1][0], tuple(reversed(between)) if found else ())
        if found is None:
            break
        seen.add(id(found))
        chain.append((found, ()))
        node = graph.node(found, "latent_image")
    return chain[::-1]


def _pass(graph: Graph, samplers: list[Node], between: tuple[Node, ...]) -> Pass:
    sampler, value = samplers[0], graph.value
    guider, select = graph.node(sampler, "guider") or {}, graph.node(sampler, "sampler") or {}
    noise, sigmas = graph.node(sampler, "noise") or {}, graph.node(sampler, "sigmas") or {}
    split = False
    while (before := graph.node(sigmas, "sigmas")) is not None and before is not sigmas and not split:
        sigmas, split = before, True
    steps = _first(value(sampler, "steps"), value(sigmas, "steps"))
    strength = _first(value(sampler, "denoise"), value(sigmas, "denoise"))
    start, ends = value(sampler, "start_at_step"), [value(each, "end_at_step") for each in samplers]
    whole = isinstance(steps, int) and isinstance(ends[-1], int) and ends[-1] >= steps
    run_steps = steps
    if isinstance(start, int) and isinstance(steps, int) and 0 < start < steps:
        run_steps, strength = steps - start, (steps - start) / steps
    partial = sampler["class_type"] == "KSamplerAdvanced" and not whole or split and len(samplers) == 1
    seed = _first(value(sampler, "seed"), value(sampler, "noise_seed"), value(noise, "noise_seed"))
    return Pass(
        tuple(samplers),
        between,
        str(value(sampler, "sampler_name") or value(select, "sampler_name") or _kind(select, "Sampler")),
        str(value(sampler, "scheduler") or value(sigmas, "scheduler") or _named_schedule(sigmas)),
        None if _without_noise(graph, sampler) else seed,
        steps,
        run_steps,
        _first(value(sampler, "cfg"), value(guider, "cfg")),
        strength if isinstance(strength, int | float) else None,
        partial,
        graph.node(sigmas, "model"),
    )


def _without_noise(graph: Graph, sampler: Node) -> bool:
    """Whether a sampler adds no noise of its own: it goes on with what came, and its seed means nothing."""
    noise = graph.node(sampler, "noise") or {}
    return str(graph.value(sampler, "add_noise")).casefold() in ("disable", "false") or (
        noise.get("class_type") == "DisableNoise"
    )


def _named_schedule(node: Node) -> str:
    """ "karras" for a node KarrasScheduler, the name of the node for others."""
    kind = str(node.get("class_type", "")).removesuffix("Scheduler").casefold()
    return kind if kind in SIZED else _kind(node, "Scheduler")


def _kind(node: Node, what: str) -> str:
    """The type of a node that is a sampler or a scheduler by its name, for a sentence about what is not here."""
    kind = str(node.get("class_type", ""))
    return kind if what in kind else ""


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)

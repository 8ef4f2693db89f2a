"""Read a LoRA: a file of small changes to the layers of a model, in the names that kohya, diffusers and PEFT give them.

    kohya      lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight, .lora_up.weight, .alpha; lora_te_...
    diffusers  unet.down_blocks.0.attentions.0.proj_in.lora.down.weight; ....attn1.processor.to_q_lora.down.weight
    PEFT       unet.down_blocks.0.attentions.0.proj_in.lora_A.weight, .lora_B.weight; base_model.model....

LyCORIS (LoCon, LoHa, LoKr, GLoRA, OFT, BOFT, full, norms) uses kohya's names with other ends.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .lora_layers import BLOCKS, as_applied, is_whole, rank_of
from .model_info import ModelError
from .tensors import TensorFile, open_tensors, read_shapes

# The end of a tensor's name, and which tensor of a change it is. The first that fits counts.
ENDS = (
    (r"[._](?:lora_down|lora\.down|lora_linear_layer\.down|lora_A(?:\.default)?)\.weight", "down"),
    (r"[._](?:lora_up|lora\.up|lora_linear_layer\.up|lora_B(?:\.default)?)\.weight", "up"),
    (r"\.lora_mid\.weight", "mid"),
    (r"\.(?:dora_scale|lora_magnitude_vector(?:\.default)?(?:\.weight)?)", "magnitude"),
    (r"\.w_norm", "diff"),
    (r"\.b_norm", "diff_b"),
    (r"\.([ab][12])\.weight", None),
    (r"\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|diff|diff_b|alpha)(?:\.default)?", None),
    (r"\.(oft_blocks|rescale)", None),
)
# PEFT's OFT turns inputs, by a rule that only its configuration tells; LyCORIS does not read its own IA3 back.
OTHER_KINDS = (
    (r"\.boft_[A-Za-z]", "PEFT's BOFT"),
    (r"\.oft_[A-Za-z]+(?<!oft_blocks)(?:\.|$)", "PEFT's OFT or an early one"),
    (r"\.bm\.weight$", "GLoRA with a core"),
    (r"\.on_input$|\.ia3_l", "IA3"),
)
PREFIXES = (
    (r"lora_unet_|lycoris_unet_|oft_unet_|unet\.", "unet"),
    (r"lora_te1?_|text_encoder\.", "text_encoder"),
    (r"lycoris_", ""),
    (r"lora_te[23]_|text_encoder_[23]\.", "text_encoder_2"),
)
# diffusers' first names for attention, and the layers that they mean.
PROCESSORS = {
    r"_processor_to_out$": "_to_out_0",
    r"_processor_": "_",
    r"_self_attn_to_out$": "_self_attn_out_proj",
    r"_self_attn_to_([qkv])$": r"_self_attn_\1_proj",
}
LORA_NAME = re.compile(
    r"lora_|lycoris_|\.lora\.|[._]hada_w1|[._]lokr_w|\.dora_scale|^base_model\.model\.|(?:^|\.)b?oft_|\.ia3_l"
)
WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
METADATA = "lora_adapter_metadata"  # PEFT's configuration in the header of a file that diffusers wrote


@dataclass(frozen=True, eq=False)
class LoraFile:
    """A LoRA whose tensors are read.

    layers  its tensors by layer and name, see `weights.lora_layers`; a layer is (component, name with "_" for "."),
            where the component is "" if the file does not say it
    alphas  alpha by layer, where the file says it; of a rank-stabilized one, with which alpha / rank is its scale
    base    what it was made for, in a few words; "" if that is not known
    """

    name: str
    layers: Mapping[tuple[str, str], Mapping[str, torch.Tensor]]
    alphas: Mapping[tuple[str, str], float]
    base: str


def is_lora(names: Iterable[str]) -> bool:
    """Whether tensors of these names are those of a LoRA."""
    return any(LORA_NAME.search(name) for name in names)


def check_lora(path: Path) -> None:
    """Raises ModelError unless a file is a LoRA of a kind that can be applied; no weights are read."""
    _grouped(read_shapes(path))


def read_lora(path: Path, name: str) -> LoraFile:
    """A LoRA and all of its tensors, copied from the file. Raises ModelError."""
    with open_tensors(path) as file:
        layers: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        alphas: dict[tuple[str, str], float] = {}
        configured = _configured_alphas(file.metadata, path)
        for layer, parts in _grouped(file).items():
            tensors = {part: file.get(key).clone() for part, key in parts.items()}
            for part, tensor in tensors.items():
                if not tensor.isfinite().all():
                    raise ModelError(f"LoRA {path.name} holds numbers that are not finite, in {parts[part]}")
            alpha = tensors.pop("alpha", None)
            value = float(alpha) if alpha is not None and alpha.numel() == 1 else configured(layer, rank_of(tensors))
            if value is not None:
                alphas[layer] = value
            layers[layer] = as_applied(tensors, value)
        return LoraFile(name, layers, alphas, base_of(file))


def base_of(file: TensorFile) -> str:
    """What a LoRA was made for, from its names and the width of the text that it attends to; "" if nothing tells."""
    names, sizes = list(file.shapes), file.sizes
    if any(re.search(r"double_blocks|single_blocks|single_transformer_blocks", name) for name in names):
        return "Flux"
    if any(re.search(r"joint_blocks|^transformer\.transformer_blocks", name) for name in names):
        return "Stable Diffusion 3"
    if any(re.match(PREFIXES[-1][0], name) for name in names):
        return WIDTHS[2048]
    for name in names:
        # Inputs of the layer that reads the text.
        if re.search(r"attn2[._](?:processor[._])?to_[kv][._](?:lora_down|lora\.down|lora_A|down)", name):
            return WIDTHS.get(sizes[name][-1] if sizes[name] else 0, "another kind of model")
    stated = f"{file.metadata.get('ss_base_model_version', '')} {file.metadata.get('modelspec.architecture', '')}"
    for pattern, base in (("sdxl|xl-v1", WIDTHS[2048]), ("sd_v2|v2-", WIDTHS[1024]), ("sd_v1|v1", WIDTHS[768])):
        if re.search(pattern, stated):
            return base
    return ""


def _grouped(file: TensorFile) -> dict[tuple[str, str], dict[str, str]]:
    """The names of a file's tensors by layer and part. ModelError for a file of another kind, or with other tensors."""
    layers: dict[tuple[str, str], dict[str, str]] = {}
    if not is_lora(file.shapes):
        first = ", ".join(list(file.shapes)[:3])[:100] or "nothing"
        raise ModelError(f"{file.path.name} is not a LoRA: it holds {first}")
    for key, shape in file.shapes.items():
        layer, part = _split(key, file)
        if not shape.dtype.is_floating_point and part != "alpha":
            raise ModelError(f"LoRA {file.path.name} holds {key[:100]} as {shape.dtype}; use fp16, bf16 or fp32")
        if part == "alpha" and sum(size != 1 for size in shape.sizes):
            raise ModelError(f"LoRA {file.path.name}: {key[:100]} should be one number")
        if part == BLOCKS and (len(shape.sizes) not in (3, 4) or shape.sizes[-1] != shape.sizes[-2]):
            raise ModelError(f"LoRA {file.path.name}: {key[:100]} should be square blocks")
        layers.setdefault(layer, {})[part] = key
    for (_, name), parts in layers.items():
        if not is_whole(frozenset(parts)):
            have = ", ".join(sorted(parts))
            raise ModelError(f"LoRA {file.path.name} is not complete: layer {name[:100]} has {have} alone")
    return layers


def _split(key: str, file: TensorFile) -> tuple[tuple[str, str], str]:
    for pattern, part in ENDS:
        match = re.search(f"{pattern}$", key)
        if match:
            return _layer_of(key[: match.start()]), part or match[1]
    found = (kind for pattern, kind in OTHER_KINDS if any(re.search(pattern, name) for name in file.shapes))
    kind = next((f", {each}," for each in found), "")
    raise ModelError(
        f"LoRA {file.path.name} is of a kind that cannot be applied{kind} (it holds {key[:100]}); take a LoRA, LoCon, "
        "LoHa, LoKr, GLoRA, DoRA, full change, or an OFT or BOFT of LyCORIS or kohya"
    )


def _layer_of(name: str) -> tuple[str, str]:
    name = name.removeprefix("base_model.model.")
    component = ""
    for pattern, found in PREFIXES:
        if match := re.match(pattern, name):
            component, name = found, name[match.end() :]
            break
    flat = name.replace(".", "_")
    for pattern, usual in PROCESSORS.items():
        flat = re.sub(pattern, usual, flat)
    return component, flat_name(flat)


def flat_name(name: str) -> str:
    """A layer's name as kohya writes it; transformers' own prefix comes and goes with its versions."""
    return name.replace(".", "_").removeprefix("text_model_")


def _configured_alphas(metadata: Mapping[str, Any], path: Path) -> Any:
    """alpha(layer, rank) from PEFT's configuration in the header, or in adapter_config.json beside the file."""
    try:
        beside = path.with_name("adapter_config.json")
        if METADATA in metadata:
            known = json.loads(str(metadata[METADATA]))
        else:
            known = json.loads(beside.read_text("utf-8")) if beside.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"LoRA {path.name}: its configuration cannot be read ({error})") from None
    known = known if isinstance(known, dict) else {}

    def setting(component: str, name: str) -> Any:
        return known.get(f"{component}.{name}", known.get(name))

    def alpha(layer: tuple[str, str], rank: int | None) -> float | None:
        component, name = layer
        # alpha / sqrt(rank) is the scale of rsLoRA (Kalajdzievski 2023, arXiv:2312.03732).
        factor = math.sqrt(rank) if rank and setting(component, "use_rslora") else 1.0
        patterns = setting(component, "alpha_pattern")
        for pattern, value in (patterns if isinstance(patterns, dict) else {}).items():
            if f"_{name}".endswith(f"_{flat_name(str(pattern).strip('^$'))}"):
                return float(value) * factor
        value = setting(component, "lora_alpha" if setting(component, "lora_alpha") is not None else "alpha")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) * factor

    return alpha

"""``python -m training STEP``: run one step, or all of them in order."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from .config import PRESETS, Config, preset

STEPS = {
    "data": "fetch the emoji sets from npm, check and render them, train the tokenizer",
    "pack": "write all drawings as work/drawings.tar.xz, which data takes as --packages where there is no network",
    "autoencoder": "train the autoencoder: pictures to latents and back",
    "latents": "give the latents unit variance",
    "text": "train the text encoder to match captions and pictures, as CLIP does",
    "denoiser": "train the UNet on the latents, the text encoder with it",
    "flow": "train a second UNet for flow matching, from the first one's weights",
    "decoder": "continue training the decoder on fixed latents",
    "classifier": "train the judge of names on real pictures",
    "styles": "train the judge of styles, from the judge of names",
    "enlarge": "train an autoencoder of larger pictures around the latents of a published one (--size 256 --start)",
    "distil": "train a LoRA with which the published model draws in two to four calls",
    "lora": "teach the published model a style, in a file of half a megabyte",
    "export": "write the weights as a diffusers folder",
    "card": "write what the exported model draws, for the page: names, examples with pictures",
    "evaluate": "print one table: how well the judge recognizes what the exported model draws",
}

#: What "all" does: make a model, or go on from a published one to larger pictures.
FIRST = tuple(step for step in STEPS if step not in ("pack", "enlarge", "distil", "lora"))
ONWARD = ("data", "enlarge", "denoiser", "flow", "export", "distil", "classifier", "styles", "card", "evaluate")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train the embedded text-to-image model. Every step resumes where it was stopped.",
        epilog="\n".join(f"  {step:12} {what}" for step, what in STEPS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=(*STEPS, "all"), help="what to do; the steps are described below")
    parser.add_argument("--size", type=int, choices=sorted(PRESETS), default=64, help="pixels a side (default 64)")
    parser.add_argument("--minutes", type=float, help="training time of this step in place of the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("training/work"), help="where everything is kept")
    parser.add_argument(
        "--packages", type=Path, help="a folder of npm tarballs, to fetch nothing that lies there, or a pack"
    )
    parser.add_argument("--start", type=Path, help="a model to go on from, such as weights/emoji, not random weights")
    parser.add_argument("--weights", type=Path, default=Path("weights/emoji"), help="what export writes")
    parser.add_argument(
        "--before", type=Path, help="a folder with an earlier autoencoder, for evaluate to compare with"
    )
    return parser.parse_args()


def run(step: str, config: Config, minutes: float | None, weights: Path, before: Path | None) -> None:
    from . import data, loop  # torch and diffusers take seconds to import, which --help need not wait for

    if step == "pack":
        data.pack(config.work / "drawings.tar.xz", *data.collect(config.packages or config.work / "packages"))
        return
    module = importlib.import_module(f".{step}", __package__)
    if step == "evaluate":
        module.run(config, weights, before)
    elif step in ("export", "card"):
        module.run(config, weights)
    elif step in ("distil", "lora"):
        module.run(config, loop.Budget(minutes=minutes) if minutes else None, weights)
    elif minutes and step in ("autoencoder", "text", "denoiser", "flow", "decoder", "enlarge", "classifier", "styles"):
        module.run(config, loop.Budget(minutes=minutes))
    else:
        module.run(config)


def main() -> None:
    args = arguments()
    config = preset(args.size, seed=args.seed, work=args.work, packages=args.packages, start=args.start)
    for step in (ONWARD if args.start else FIRST) if args.step == "all" else (args.step,):
        run(step, config, args.minutes, args.weights, args.before)


if __name__ == "__main__":
    main()

"""Where finished pictures go: each is saved with its record at once, and announced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from PIL import Image

from webui.core.inpainting import InputPicture
from webui.core.new_record import make_record
from webui.core.record import PassRecord, Record, digest_of, encode_png
from webui.core.resolved_request import ResolvedRequest
from webui.core.storage import Saved, keep_input, save_or_keep
from weights.model import Model

from .errors import not_saved
from .events import Picture
from .job_context import JobContext
from .run_environment import identity_of, origin_of


@dataclass(frozen=True)
class RunFacts:
    """What ran for a picture: the sigmas of each pass, denoise calls in all, the seeds of those drawn together, and the
    evaluations of the network, None where they are not counted."""

    sigmas: tuple[tuple[float, ...], ...]
    nfe: float
    batch: tuple[int, ...]
    evaluations: float | None = None


@dataclass(frozen=True)
class SavedPicture:
    """A picture that was saved, and what ran for it; `index` is its place in the request."""

    index: int
    seed: int
    facts: RunFacts


class PictureSink:
    """Saves the pictures of a request; `saved` is what was saved so far, in order.

    finished  indices of those that an earlier attempt saved: they count as saved, and are not written again
    others    the opened models that draw beside that of the context, by name
    """

    def __init__(
        self,
        resolved: ResolvedRequest,
        context: JobContext,
        finished: frozenset[int] = frozenset(),
        others: Mapping[str, Model] = MappingProxyType({}),
    ):
        self._finished, self._others = finished, others
        self._resolved, self._request, self._context = resolved, resolved.request, context
        self._problems: list[Saved] = []
        self._input: dict[str, str] = {}
        self.saved: list[SavedPicture] = []

    def keep_input(self, source: InputPicture) -> None:
        """Name the fitted input picture and mask in every record, and keep them: a replay needs them."""
        parts = {"input_digest": source.picture, "mask_digest": source.mask}
        for name, image in parts.items():
            if image is not None:
                self._input[name] = digest_of(image)
                if not self._context.public:
                    self._context.on_head(partial(keep_input, self._context.outputs, image, self._input[name]))

    def save(self, image: Image.Image, index: int, facts: RunFacts) -> None:
        """Save picture `index` of the request."""
        seed = self._request.seeds[index]
        if index in self._finished:
            self.saved.append(SavedPicture(index, seed, facts))
            return
        data = encode_png(image, self._record(image, index, facts))
        saved = self._context.on_head(partial(save_or_keep, self._context.outputs, seed, data))
        if saved.path:
            self.saved.append(SavedPicture(index, seed, facts))
            self._context.on_saved(saved.path)
            self._context.tell(Picture(saved.path, seed, index))
        if saved.problem:
            self._problems.append(saved)

    def raise_problems(self) -> None:
        """Raises NotSaved if a picture is not where it should be."""
        if self._problems:
            raise not_saved(self._problems, self._context.public)

    def _record(self, image: Image.Image, index: int, facts: RunFacts) -> Record:
        model, request, origins = self._context.model, self._resolved.request_of(index), self._resolved.origins
        counted = {} if facts.evaluations is None else {"evaluations": facts.evaluations}
        written = dict(zip(("prompt", "negative_prompt"), self._resolved.written, strict=True))
        styles = list(self._resolved.styles)
        return make_record(
            request,
            index,
            [
                PassRecord(
                    tuple(map(float, sigmas)),
                    *own,
                    dict(plan.coefficients or {}),
                    dict(plan.schedule_coefficients or {}),
                )
                for own, sigmas, plan in zip(origins.passes, facts.sigmas, self._resolved.plans, strict=True)
            ],
            facts.nfe,
            origin_of(model.name, identity_of(model, request, self._context.upscalers, self._others)),
            facts.batch,
            {
                **self._input,
                **counted,
                "threads": torch.get_num_threads(),
                "pixels": digest_of(image),
                **({"written": written} if self._resolved.came_out or styles else {}),
                **({"styles": styles} if styles else {}),
            },
            origins.guidance,
        )

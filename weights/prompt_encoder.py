"""Encode a prompt: its chunks through a text encoder, weighted, one after another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from .embedding_file import NO_EMBEDDINGS, Embeddings, does_not_fit
from .model_info import ModelError
from .prompt_syntax import Chunk, parse, split


class PromptEncoder:
    """A tokenizer and its text encoder (CLIP: Radford et al. 2021, arXiv:2103.00020).

    name     of the model, for errors
    encoder  transformers' CLIPTextModel, with a projection or without; `Any`, because importing its type would
             import transformers
    device   that computes; its own by default
    penultimate  whether the model was trained on the last layer but one, without the norm after the last
    """

    def __init__(
        self, name: str, tokenizer: Any, encoder: Any, device: torch.device | None = None, penultimate: bool = False
    ):
        self.tokenizer, self.encoder, self._name, self._penultimate = tokenizer, encoder, name, penultimate
        self.device: torch.device = device or encoder.device
        commas = self._tokens(",")
        self._comma = commas[0] if len(commas) == 1 else None

    @property
    def size(self) -> int:
        """Tokens of a chunk, without the marks for start and end."""
        return self.tokenizer.model_max_length - 2

    @property
    def layers(self) -> int:
        """Layers of the text encoder."""
        return self.encoder.config.num_hidden_layers

    def chunks(self, text: str, embeddings: Embeddings = NO_EMBEDDINGS) -> list[Chunk]:
        """The chunks of a prompt, at least one.

        embeddings  the vectors (count, width) that stand for words; vector i of all of them is token -1 - i
        """
        if not embeddings:
            return split(parse(text), self._tokens, self.size, self._comma)
        first, places = 0, {}
        for name, vectors in embeddings.items():
            places[name.casefold()] = [-1 - first - i for i in range(len(vectors))]
            first += len(vectors)
        longest_first = "|".join(re.escape(name) for name in sorted(embeddings, key=len, reverse=True))
        words = re.compile(rf"(?i)(?<!\w)({longest_first})(?!\w)")

        def tokens(part: str) -> list[int]:
            pieces = words.split(part)
            return [
                token
                for i, piece in enumerate(pieces)
                for token in (places[piece.casefold()] if i % 2 else self._tokens(piece))
            ]

        return split(parse(text), tokens, self.size, self._comma)

    def count_tokens(self, text: str, embeddings: Embeddings = NO_EMBEDDINGS) -> tuple[int, int]:
        """How many tokens a prompt has and how many its chunks could hold, without the start and end marks."""
        chunks = self.chunks(text, embeddings)
        return sum(len(chunk.tokens) for chunk in chunks), len(chunks) * self.size

    def encode(self, text: str, clip_skip: int = 1, embeddings: Embeddings = NO_EMBEDDINGS) -> torch.Tensor:
        """The prompt's hidden states (1, chunks * tokens, width), see `encode_pooled`."""
        return self.encode_pooled(text, clip_skip, embeddings)[0]

    @torch.inference_mode()
    def encode_pooled(
        self, text: str, clip_skip: int = 1, embeddings: Embeddings = NO_EMBEDDINGS
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prompt's hidden states (1, chunks * tokens, width) and the pooled vector (1, width) of its first chunk.

        clip_skip   1 takes the last layer that the model was trained on, 2 the one before, as A1111 counts; where it
                    was trained on the last layer but one, that is what both take
        embeddings  textual inversions by name: the vectors that take the place of a word's own
        A chunk is scaled by its weights and then as a whole, so that its mean stays (A1111's way). Without weights
        and within one chunk these are exactly the text encoder's own numbers. Raises ModelError.
        """
        if not 1 <= clip_skip <= self.layers:
            raise ModelError(
                f"clip skip is {clip_skip}; the text encoder of model {self._name} allows 1 to {self.layers}"
            )
        words = self.encoder.get_input_embeddings()
        for name, vectors in embeddings.items():
            if vectors.shape[-1] != words.weight.shape[-1]:
                raise does_not_fit(name, vectors, self._name)
        chunks = self.chunks(text, embeddings)
        if not embeddings:
            return _joined([self._chunk(chunk, clip_skip) for chunk in chunks])
        table = torch.cat(list(embeddings.values())).to(self.device)

        def replace(layer: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            # The layer is only asked for tokens that it has; which were others is in `others`.
            return torch.where(others[..., None] < 0, table[(-1 - others).clamp(min=0)].to(output.dtype), output)

        states = []
        for chunk in chunks:
            others = torch.tensor([[0, *chunk.tokens, *[0] * (self.size - len(chunk.tokens) + 1)]], device=table.device)
            hook = words.register_forward_hook(replace)
            try:
                states.append(self._chunk(chunk, clip_skip))
            finally:
                hook.remove()
        return _joined(states)

    def _chunk(self, chunk: Chunk, clip_skip: int) -> tuple[torch.Tensor, torch.Tensor]:
        padding = [self.tokenizer.pad_token_id] * (self.size - len(chunk.tokens))
        tokens = [max(0, token) for token in chunk.tokens]
        ids = [self.tokenizer.bos_token_id, *tokens, self.tokenizer.eos_token_id, *padding]
        states, pooled = self._states(torch.tensor([ids], device=self.device), clip_skip)
        if all(weight == 1.0 for weight in chunk.weights):
            return states, pooled
        weights = torch.ones(len(ids), dtype=torch.float32)
        weights[1 : 1 + len(chunk.weights)] = torch.tensor(chunk.weights)
        scaled = states.float() * weights.to(states.device)[:, None]
        mean, kept = scaled.mean(), states.float().mean()
        # Weights that cancel the mean leave nothing to restore it from.
        return (scaled * (kept / mean) if mean.abs() > 1e-6 else scaled).to(states.dtype), pooled

    def _states(self, ids: torch.Tensor, clip_skip: int) -> tuple[torch.Tensor, torch.Tensor]:
        last = clip_skip == 1 and not self._penultimate
        output = self.encoder(ids, output_hidden_states=not last)
        pooled = output.text_embeds if "text_embeds" in output else output.pooler_output
        if last:
            return output.last_hidden_state, pooled
        if self._penultimate:
            return output.hidden_states[-max(2, clip_skip)], pooled
        # Every layer's output goes through the norm that the UNet was trained behind.
        norm = getattr(self.encoder, "text_model", self.encoder).final_layer_norm
        return norm(output.hidden_states[-clip_skip]), pooled

    def _tokens(self, text: str) -> Sequence[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def _joined(chunks: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The states of chunks one after another, and the pooled vector of the first."""
    return torch.cat([states for states, _ in chunks], dim=1), chunks[0][1]

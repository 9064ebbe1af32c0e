"""Implements the common part of all OpenFlamingo adapters, whatever their vision tower, language model and
vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as checkpoint_call

from harness.errors import DataError
from harness.inference.decoding import Steps, sample_all, sample_queue
from harness.inference.outline import NetworkShape
from harness.inference.pixels import read_pixels
from harness.protocols import DrawSettings
from harness.sequence import Codec
from harness.types import Example, Projection, Sample, TokenTrees
from model_zoo import checkpoint
from model_zoo.flamingo.network import LatentDecoding, TrainableFlamingo
from model_zoo.shapes import flamingo as shape


class FlamingoAdapter:
    """The methods of the Adapter protocol that need only a model, a codec and the vocabulary's entries.

    A subclass makes these four, and has the other methods: `problems`, `pixels`, `image_side` and `describe`.
    """

    def __init__(
        self, model: TrainableFlamingo, codec: Codec, entries: Sequence[str], saved: Collection[str] | None = None
    ) -> None:
        """saved: names of the tensors that `save` writes, if the others are read from elsewhere; None for all."""
        self.model, self.codec, self.entries, self.saved = model, codec, tuple(entries), saved

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        """Returns images in the form of the vision tower, [B, 3, S, S]."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Returns logits [B, L, V]. One image may serve several rows: B of tokens must be a multiple of B of pixels."""
        return self.model.read(self._latents(pixels, tokens), tokens)

    def hidden(self, pixels: Tensor, tokens: Tensor) -> Projection:
        """Returns hidden states [B, L, D] and output embedding [V, D], whose product is `logits`."""
        return self.read(self._latents(pixels, tokens), tokens)

    @property
    def reads_trees(self) -> bool:
        return self.model.reads_trees

    def encode(self, pixels: Tensor) -> Tensor:
        """Returns latents [B, 1, n, D], which the cross-attention reads."""
        return self.model.latents(pixels[:, None, None])

    def read(self, encoded: Tensor, tokens: Tensor | TokenTrees) -> Projection:
        hidden = self.model.read_hidden(encoded, tokens)
        return Projection(hidden, self.model.lang_encoder.get_output_embeddings().weight)

    def _latents(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return self.encode(pixels).repeat_interleave(len(tokens) // len(pixels), dim=0)

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        return sample_all(self._begin, self.codec, examples, temperatures, seed, max_tokens, grammar, self.device)

    @property
    def refills(self) -> bool:
        return self.model.reads_trees

    def generate_queue(
        self, examples: Sequence[Example], temperatures: Sequence[float], settings: DrawSettings, images: int
    ) -> list[list[Sample]]:
        return sample_queue(self._begin, self.codec, examples, temperatures, settings, images, self.device)

    def _begin(self, examples: Sequence[Example], samples: int) -> Steps:
        decoding = LatentDecoding(self.model, self._encoded(examples), samples)

        def add(more: Sequence[Example], prompts: Tensor) -> Tensor:
            return decoding.add(self._encoded(more), prompts)

        return Steps(decoding.step, decoding.keep, decoding.close, add)

    def _encoded(self, examples: Sequence[Example]) -> Tensor:
        """Latents [B, 1, n, D] of images. On a CPU one image after the other: several at once are rounded
        otherwise than one, and what is generated must not depend on the batch, to the last bit."""
        pixels = read_pixels(self, examples).to(self.device)
        parts = pixels[:, None] if pixels.device.type == "cpu" else pixels[None]
        return torch.cat([self.encode(part) for part in parts])

    @property
    def context_length(self) -> int | None:
        """Returns the number of positions of the language model: beyond it OPT has no embedding, MPT no bias, and the
        others were not trained."""
        config = self.model.lang_encoder.config
        places: int | None = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
        return places

    @property
    def image_side(self) -> int:
        """S, the pixels of an image's side."""
        raise NotImplementedError

    def network_shape(self) -> NetworkShape:
        return shape.network_shape(self.model, self.image_side, self.codec.tokens.size)

    def checkpoint_gradients(self) -> None:
        for block in self.model.blocks():
            block.forward = _computed_twice(block.forward)

    def save(self, path: Path) -> None:
        checkpoint.save(self.model, self.entries, path, self.saved)

    def load(self, path: Path) -> None:
        tensors, entries = checkpoint.read(path)
        if entries != self.entries:
            raise DataError(f"{path}: made for another vocabulary ({len(entries)} entries, not {len(self.entries)})")
        checkpoint.load(self.model, tensors, self.saved)


def _computed_twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a forward pass so that with gradient only its arguments are stored; the backward pass computes it again."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint_call(forward, *args, use_reentrant=False, **kwargs)

    return run

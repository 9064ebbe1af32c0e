"""Builds the network of OpenFlamingo (Awadalla et al., 2023; arXiv 2308.01390) over any vision tower and language
model.

Three repairs make open_flamingo 2.0.1 work here: the language mixin's forward is replaced (see there), images are
encoded once and their latents expanded to all samples (its `generate` does not expand), and the vision tower runs
with gradient where it trains (upstream always runs it under `no_grad`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from open_flamingo.src.flamingo import Flamingo
from open_flamingo.src.flamingo_lm import FlamingoLMMixin
from open_flamingo.src.helpers import MaskedCrossAttention, PerceiverResampler
from open_flamingo.src.utils import extend_instance
from torch import Tensor, nn
from torch.nn import functional

from harness.types import TokenTrees
from model_zoo.cache_name import CACHE, AutocastCache, cache_of
from model_zoo.flamingo.alibi import AlibiAttention, reading_trees, take_places


class LanguageMixin(FlamingoLMMixin):  # type: ignore[misc]  # open_flamingo has no type information
    """Upstream's mixin with a default for `attention_mask`, which transformers 5 omits, and with the image only where
    the prompt has it. Upstream looks for image tokens everywhere: one row that emits one would take the image away
    from every other row of its batch."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: Any) -> Any:
        past = rest.get(CACHE)
        self._condition(
            input_ids, prefill=past is None or (isinstance(past, AutocastCache) and past.get_seq_length() == 0)
        )
        language: Any = super(FlamingoLMMixin, self)  # the language model that this is mixed into
        return language.forward(input_ids=input_ids, attention_mask=attention_mask, **rest)

    def hidden(self, input_ids: Tensor, **layout: Any) -> Tensor:
        """Returns states [B, L, D] of whole sequences, which `forward` multiplies with the output embedding."""
        self._condition(input_ids, prefill=True)
        hidden: Tensor = self.base_model(input_ids=input_ids, use_cache=False, **layout).last_hidden_state
        return hidden

    def hidden_of_trees(self, trees: TokenTrees) -> Tensor:
        """Returns states [R, L, D] of trees of tokens, with the same values as for their sequences one by one."""
        with reading_trees(self._alibi(), trees.places):
            return self.hidden(trees.tokens, **self._layout(trees.sees, trees.places))

    def beside(self, tokens: Tensor, cache: AutocastCache, before: Tensor) -> Any:
        """What `forward` returns of one more token [R, 1] of each row, where rows have come to different lengths.

        before: [R, 1], how many tokens of each are in the cache; all of them end in its last column (AutocastCache).
        """
        columns = torch.arange(cache.get_seq_length(), -1, -1, device=tokens.device)  # how far back each is
        layout: dict[str, Any] = {**self._layout((columns <= before)[:, None], before), CACHE: cache}
        return self.forward(tokens, use_cache=True, **layout)

    def _layout(self, sees: Tensor, places: Tensor) -> dict[str, Tensor]:
        """Arguments that say which tokens [R, L] see which [R, L, columns], and where they stand [R, L]."""
        sees = sees[:, None]  # the same for every head
        if self._alibi():  # places are a bias of the attention (see there)
            return {"attention_mask": ~sees}
        if self.config._attn_implementation != "sdpa":  # other models add their mask to the scores
            least = torch.finfo(self.dtype).min
            sees = torch.zeros(sees.shape, dtype=self.dtype, device=sees.device).masked_fill(~sees, least)
        return {"attention_mask": sees, "position_ids": places}

    def _alibi(self) -> list[AlibiAttention]:
        return [module for module in self.modules() if isinstance(module, AlibiAttention)]

    def _condition(self, input_ids: Tensor, prefill: bool) -> None:
        image = input_ids == self.media_token_id
        for layer in self._get_decoder_layers():
            if prefill:
                layer.condition_media_locations(image & (image.cumsum(1) == 1))
            layer.condition_use_cached_media(not prefill)


class TrainableFlamingo(Flamingo):  # type: ignore[misc]
    """Flamingo whose vision tower has a gradient, and whose latents can be reused.

    reads_trees: whether its language model belongs to transformers, whose models take a mask and places of tokens;
    code that comes with weights may not.
    """

    reads_trees = False

    def latents(self, vision_x: Tensor) -> Tensor:
        """Converts images [B, T_img, 1, C, H, W] to perceiver latents [B, T_img, n, D]."""
        batch, media = vision_x.shape[:2]
        features = self.vision_encoder(vision_x.flatten(0, 2))[1]
        latents: Tensor = self.perceiver(features.view(batch, media, 1, *features.shape[1:]))
        return latents

    def read(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Returns logits [B, L, V] of tokens that refer to these latents."""
        with self._seeing(latents):
            logits: Tensor = self.lang_encoder(input_ids=tokens, use_cache=False).logits
        return logits

    def read_hidden(self, latents: Tensor, tokens: Tensor | TokenTrees) -> Tensor:
        """Returns hidden states [B, L, D] of the same, or of trees of tokens where the model `reads_trees`."""
        language = self.lang_encoder
        with self._seeing(latents):
            hidden: Tensor = (
                language.hidden_of_trees(tokens) if isinstance(tokens, TokenTrees) else language.hidden(tokens)
            )
        return hidden

    def blocks(self) -> Iterator[Any]:
        """Returns the modules that hidden states pass one after the other. These are not whole Flamingo layers, which
        lose their inputs at the end of a forward pass."""
        if isinstance(self.vision_encoder, VisionTransformer):
            yield from self.vision_encoder.transformer.resblocks
        for layer in self.perceiver.layers:
            yield from layer
        for layer in self.lang_encoder._get_decoder_layers():
            yield from filter(None, (layer.gated_cross_attn_layer, layer.decoder_layer))

    def readers(self) -> list[Any]:
        """Returns the gated cross-attention blocks: one every so many layers of the language model."""
        return [block for block in self.lang_encoder.gated_cross_attn_layers if block is not None]

    @contextmanager
    def _seeing(self, latents: Tensor) -> Iterator[None]:
        for layer in self.lang_encoder._get_decoder_layers():
            layer.condition_vis_x(latents)
        yield
        self.lang_encoder.clear_conditioned_layers()


class LatentDecoding:
    """Decodes token by token over latents [B, T_img, n, D], each serving `samples` rows, with key-value caches.

    The keys and values of the image are computed once per image, not once per row and token.
    """

    def __init__(self, model: TrainableFlamingo, latents: Tensor, samples: int) -> None:
        self._language: Any = model.lang_encoder
        self._layers: Any = model.lang_encoder._get_decoder_layers()
        self._projections = [block.attn.to_kv for block in model.readers()]
        self._samples = samples
        # Code that comes with weights has other caches.
        self._cache: Any = AutocastCache() if model.reads_trees else None
        self._before: Tensor | None = None  # [R, 1] tokens of each row in the cache, where they are not equally many
        self._read(latents)

    def step(self, tokens: Tensor) -> Tensor:
        if self._before is None:
            output = self._language(input_ids=tokens, use_cache=True, **{CACHE: self._cache})
            self._cache = cache_of(output)
        else:
            output = self._language.beside(tokens, self._cache, self._before)
            self._before = self._before + 1
        logits: Tensor = output.logits
        return logits[:, -1]

    def add(self, latents: Tensor, prompts: Tensor) -> Tensor:
        """Lets rows of more images begin, with these prompts [rows, n]; logits [rows, V] of what follows them."""
        images, locations = self._layers[0].vis_x, self._layers[0].media_locations
        memos, others, before = [projection.memo for projection in self._projections], self._cache, self._before
        self._cache, self._before = AutocastCache(), None
        self._read(latents)
        logits = self.step(prompts)
        if not len(images):
            return logits
        if before is None:
            before = torch.full((len(images), 1), others.get_seq_length(), device=prompts.device)
        others.append_rows(self._cache)
        self._cache = others
        self._before = torch.cat([before, torch.full((len(prompts), 1), prompts.shape[1], device=prompts.device)])
        for projection, memo in zip(self._projections, memos, strict=True):
            projection.memo = torch.cat([memo, projection.memo])
        self._see(torch.cat([images, self._layers[0].vis_x]))
        # All that later tokens need of a prompt is that it has the image.
        image = torch.cat([where.any(1, keepdim=True) for where in (locations, self._layers[0].media_locations)])
        self._locate(image)
        return logits

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        for projection in self._projections:
            projection.memo = projection.memo[rows]
        self._see(self._layers[0].vis_x[rows])
        self._locate(self._layers[0].media_locations[rows])
        if self._before is not None and len(rows):
            self._before = self._before[rows]
            self._cache.keep_columns(int(self._before.max()))

    def close(self) -> None:
        """Removes the state of this decoding from the model."""
        for projection in self._projections:
            projection.forget()
        self._language.clear_conditioned_layers()

    def _read(self, latents: Tensor) -> None:
        for projection in self._projections:
            projection.memo = None
            projection.memo = projection(latents.flatten(1, 2)).repeat_interleave(self._samples, dim=0)
        self._see(latents.repeat_interleave(self._samples, dim=0))

    def _see(self, latents: Tensor) -> None:
        for layer in self._layers:
            layer.condition_vis_x(latents)

    def _locate(self, image: Tensor) -> None:
        for layer in self._layers:
            layer.condition_media_locations(image)


class MemoLinear(nn.Linear):
    """A linear layer that returns `memo` instead of its result while `memo` is set."""

    memo: Tensor | None = None
    _turned: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.memo is None else self.memo

    def turned(self, memo: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Returns keys [R H, d, n] and values [R H, n, d] of a memo [R, n, 2 H d]: laid out for matrix products once,
        not for every token that reads them."""
        if self._turned is None or self._turned[0] is not memo:
            keys, values = (part.reshape(*part.shape[:2], heads, -1) for part in memo.chunk(2, dim=-1))
            self._turned = (
                memo,
                keys.permute(0, 2, 3, 1).flatten(0, 1).contiguous(),
                values.transpose(1, 2).flatten(0, 1).contiguous(),
            )
        return self._turned[1:]

    def forget(self) -> None:
        self.memo = self._turned = None


class LatentAttention(MaskedCrossAttention):  # type: ignore[misc]
    """Upstream's cross-attention; on a GPU as one kernel. On a CPU its results are upstream's to the last bit, so that
    those that were published are made again.

    Shape legend: R rows   L tokens   n latents   H heads   d width of a head
    """

    def forward(
        self, x: Tensor, media: Tensor, media_locations: Tensor | None = None, use_cached_media: bool = False
    ) -> Tensor:
        """x [B, L, D] reads the latents [B, 1, n, D'] of its one image, wherever `media_locations` has it before."""
        if media_locations is not None and x.device.type != "cpu":
            return self.fused(x, media, media_locations, use_cached_media)
        if media_locations is not None and use_cached_media and self.to_kv.memo is not None:
            return self.remembered(x, self.to_kv.memo, media_locations)
        whole: Tensor = super().forward(x, media, media_locations, use_cached_media)
        return whole

    def fused(self, x: Tensor, media: Tensor, media_locations: Tensor, use_cached_media: bool) -> Tensor:
        """The same, of one image in each row."""
        keys, values = self.to_kv(media.flatten(1, 2)).chunk(2, dim=-1)
        queries, keys, values = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.to_q(self.norm(x)), keys, values)
        )
        read = functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        image_before = media_locations.any(1, keepdim=True) if use_cached_media else media_locations.cumsum(1) > 0
        out: Tensor = self.to_out(read * image_before[:, :, None])
        return out

    def remembered(self, x: Tensor, memo: Tensor, media_locations: Tensor) -> Tensor:
        """The same for tokens after the prompt, with keys and values as they were projected before: memo [R, n, 2 H d].
        Every row has one image or none, so that no score is masked; softmax subtracts the largest itself."""
        keys, values = self.to_kv.turned(memo, self.heads)
        queries = self.to_q(self.norm(x)).unflatten(2, (self.heads, -1)).transpose(1, 2) * self.scale
        weights = torch.bmm(queries.flatten(0, 1), keys).softmax(-1)
        read = torch.bmm(weights, values).reshape(len(x), self.heads, x.shape[1], -1).transpose(1, 2).flatten(2)
        out: Tensor = self.to_out(read * media_locations.any(1)[:, None, None])
        return out


def _adapt(attention: nn.Module) -> None:
    """Changes upstream's modules in place: drawing new weights would shift the random stream."""
    attention.__class__ = LatentAttention
    attention.to_kv.__class__ = MemoLinear


@dataclass(frozen=True, slots=True)
class ReaderSizes:
    """Sizes of the parts that read the image: the perceiver and the gated cross-attention; `width` is that of one
    head."""

    depth: int
    latents: int
    heads: int
    width: int
    gate: float
    """Start value of the tanh gates; upstream starts at 0 to protect a pretrained language model."""


def assemble(
    vision: nn.Module, vision_width: int, language: nn.Module, layers: str, every: int, image: int, end: int
) -> TrainableFlamingo:
    """Makes a Flamingo whose cross-attention has upstream's sizes and precedes every `every`-th decoder layer.

    layers: the decoder layers as an attribute of the language model. image, end: the ids of these tokens.
    """
    of_transformers = type(language).__module__.startswith("transformers.")
    take_places(language)
    extend_instance(language, LanguageMixin)
    flamingo: Any = language  # extend_instance has changed its class
    flamingo.set_decoder_layers_attr_name(layers)
    model = TrainableFlamingo(
        vision_encoder=SimpleNamespace(visual=vision),
        lang_encoder=language,
        eoc_token_id=end,
        media_token_id=image,
        vis_dim=vision_width,
        cross_attn_every_n_layers=every,
    )
    model.reads_trees = of_transformers
    for block in model.readers():
        _adapt(block.attn)
    return model


def resize(model: TrainableFlamingo, sizes: ReaderSizes) -> None:
    """Makes the modules again with these sizes, for which upstream's constructor has no arguments."""
    heads = {"dim_head": sizes.width, "heads": sizes.heads}
    model.perceiver = PerceiverResampler(dim=model.vis_dim, depth=sizes.depth, num_latents=sizes.latents, **heads)
    for block in model.readers():
        block.attn = MaskedCrossAttention(dim=model.lang_dim, dim_visual=model.vis_dim, **heads)
        _adapt(block.attn)
        nn.init.constant_(block.attn_gate, sizes.gate)
        nn.init.constant_(block.ff_gate, sizes.gate)

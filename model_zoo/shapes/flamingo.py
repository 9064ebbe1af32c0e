"""What OpenFlamingo's network is made of, for what it costs (harness.inference.outline).

An image passes the vision tower and the perceiver; each row of tokens reads the latents through the keys and values of
the gated cross-attention; each token passes the decoder's layers and the rest of that attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from open_clip.transformer import VisionTransformer

from harness.inference.outline import NetworkPart, NetworkShape, convolution_parts, part_of
from model_zoo.flamingo.network import TrainableFlamingo
from model_zoo.shapes.tower import timm_parts


def network_shape(model: TrainableFlamingo, side: int, vocabulary: int) -> NetworkShape:
    """side: pixels of the square images that the vision tower reads."""
    language = model.lang_encoder
    places, vision = _vision(model.vision_encoder, side)
    perceiver = _perceiver(model.perceiver, places)
    latents = model.perceiver.latents.shape[0]
    head = language.get_output_embeddings()
    return NetworkShape(
        parts=(*vision, *perceiver, *_readers(model.readers(), latents), _decoder(language)),
        width=language.config.hidden_size,
        vocabulary=vocabulary,
        head_trains=all(parameter.requires_grad for parameter in head.parameters()),
        learns_tokens=any(parameter.requires_grad for parameter in language.get_input_embeddings().parameters()),
    )


def _vision(tower: Any, side: int) -> tuple[int, list[NetworkPart]]:
    """How many tokens the tower makes of an image, and its parts."""
    if isinstance(tower, VisionTransformer):
        height, width = tower.grid_size
        places, transformer = height * width + 1, tower.transformer
        wide = tower.ln_post.normalized_shape[0]
        blocks = part_of(
            "vision", "image", places, transformer.resblocks, layers=len(transformer.resblocks), width=wide, keys=places
        )
        return places, [*convolution_parts("patches", tower.conv1, side), blocks]
    return timm_parts(tower.body)


def _perceiver(perceiver: Any, places: int) -> list[NetworkPart]:
    latents = perceiver.latents.shape[0]
    attentions = [attention for attention, _ in perceiver.layers]
    width = attentions[0].to_q.out_features
    queries = [m for attention, feed in perceiver.layers for m in (attention.to_q, attention.to_out, feed)]
    norms = [norm for item in attentions for norm in (item.norm_media, item.norm_latents)]
    return [
        part_of("perceiver's keys", "image", places + latents, [*norms, *(item.to_kv for item in attentions)]),
        part_of("perceiver", "image", latents, queries, layers=len(attentions), width=width, keys=places + latents),
    ]


def _readers(blocks: Sequence[Any], latents: int) -> list[NetworkPart]:
    keys = [block.attn.to_kv for block in blocks]
    rest = [m for block in blocks for m in (block.attn.norm, block.attn.to_q, block.attn.to_out, block.ff)]
    width = blocks[0].attn.to_q.out_features
    return [
        part_of("cross-attention's keys", "row", latents, keys),
        part_of("cross-attention", "token", 1, rest, layers=len(blocks), width=width, keys=latents),
    ]


def _decoder(language: Any) -> NetworkPart:
    layers = [layer.decoder_layer for layer in language._get_decoder_layers()]
    width, heads = language.config.hidden_size, language.config.num_attention_heads
    shared = getattr(language.config, "num_key_value_heads", None) or heads
    return part_of(
        "decoder", "token", 1, layers, layers=len(layers), width=width, keys=None, cached=2 * width * shared // heads
    )

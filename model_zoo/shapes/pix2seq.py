"""What Pix2Seq's network is made of, for what it costs (harness.inference.outline)."""

from __future__ import annotations

from typing import Any

from harness.inference.outline import NetworkShape, part_of
from model_zoo.shapes.tower import timm_parts


def network_shape(model: Any) -> NetworkShape:
    """An image passes the backbone and gives each layer its keys and values once; each token passes the rest."""
    places, backbone = timm_parts(model.tower)
    decoder, layers = model.decoder, list(model.decoder.layers)
    width = decoder.embedding.embedding_dim
    keys = [layer.cross.key_value for layer in layers]
    cross = [m for layer in layers for m in (layer.norms[1], layer.cross.query, layer.cross.out)]
    layers_of_tokens = [m for layer in layers for m in (layer.norms[0], layer.own, layer.norms[2], layer.feed_forward)]
    attention: dict[str, Any] = {"layers": len(layers), "width": width}
    return NetworkShape(
        parts=(
            *backbone,
            part_of("projection", "image", places, [model.project, model.norm]),
            part_of("cross-attention's keys", "image", places, keys),
            part_of("cross-attention", "token", 1, cross, **attention, keys=places),
            part_of("decoder", "token", 1, layers_of_tokens, **attention, keys=None, cached=2 * width),
        ),
        width=width,
        vocabulary=decoder.output.out_features,
        head_trains=decoder.output.weight.requires_grad,
        learns_tokens=decoder.embedding.weight.requires_grad,
    )

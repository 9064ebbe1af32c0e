"""What a vision-language model of transformers is made of, for what it costs (harness.inference.outline).

Read off its parameters' names and its configuration, so it is alike for all families: an image passes the image
encoder, by its patches; prompt and answer pass everything else, as tokens. An encoder that reads the prompt counts as
part of what the answer passes.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.inference.outline import NetworkShape, leaves, part_of


def network_shape(model: Any, vision: tuple[str, ...], side: int, vocabulary: int) -> NetworkShape:
    """vision: beginnings of the names of the image encoder's parameters. side: pixels of a square image."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    seeing: list[nn.Module] = []
    saying: list[nn.Module] = []
    for name, module in model.named_modules():
        if module in (embeddings, head) or isinstance(module, nn.Embedding) or not is_leaf(module):
            continue
        (seeing if f"{name}.".startswith(vision) else saying).append(module)
    text, eyes = model.config.get_text_config(), model.config.vision_config
    patch = getattr(eyes, "patch_size", 16)
    patch = patch if isinstance(patch, int) else patch[0] * 4  # a network of stages: its first has this, its last more
    places = max(1, (side // patch) ** 2)
    width, heads = text.hidden_size, text.num_attention_heads
    shared = getattr(text, "num_key_value_heads", None) or heads
    head_width = getattr(text, "head_dim", None) or width // heads
    return NetworkShape(
        parts=(
            part_of("vision", "image", places, seeing),
            part_of(
                "decoder",
                "token",
                1,
                saying,
                layers=text.num_hidden_layers,
                width=heads * head_width,
                keys=None,
                cached=2 * shared * head_width,
            ),
        ),
        width=width,
        vocabulary=vocabulary,
        head_trains=head.weight.requires_grad,
        learns_tokens=embeddings.weight.requires_grad,
        shares_prompt=True,
    )


def is_leaf(module: nn.Module) -> bool:
    """Whether it has no modules in it."""
    return any(item is module for item in leaves(module))

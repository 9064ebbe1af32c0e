"""The architectures that OpenFlamingo can be built over: data alone, so that settings are checked without torch."""

from __future__ import annotations

from dataclasses import dataclass

TOY = "toy-"
"""Begins the name of a family with random weights at toy size."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """layers: the decoder layers, as an attribute of the model. attention: the linear maps in them that LoRA changes.
    output: what released checkpoints call the output embedding, where it is not `lm_head`."""

    layers: str
    attention: tuple[str, ...]
    output: str = "lm_head"


FAMILIES: dict[str, Architecture] = {
    "gpt_neox": Architecture("gpt_neox.layers", ("query_key_value",), "embed_out"),
    "llama": Architecture("model.layers", ("q_proj", "v_proj")),
    "mpt": Architecture("transformer.blocks", ("Wqkv",)),
    "opt": Architecture("model.decoder.layers", ("q_proj", "v_proj")),
}
"""By `model_type` in config.json."""

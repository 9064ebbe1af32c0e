"""Builds language models of the sizes that OpenFlamingo was released with, with random weights, for measuring
offline.

    random-3b   MPT-1B's layers    (OpenFlamingo-3B: cross-attention before every layer)
    random-4b   RedPajama-3B's     (OpenFlamingo-4B: before every second)
    random-9b   MPT-7B's           (OpenFlamingo-9B: before every fourth)

`random-9b:4` has only four of the layers, for less memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

RANDOM = "random-"
CONTEXT = 2048
ENTRIES = 50_277
"""Entries of the tokenizer that all three share (GPT-NeoX's); a toy's tokenizer is filled up to it."""


@dataclass(frozen=True, slots=True)
class ReleasedSize:
    """family: as in model_zoo.flamingo.language. every: cross-attention before every so-manyth layer. repository: of
    the language model that was released."""

    family: str
    width: int
    layers: int
    heads: int
    every: int
    repository: str


SIZES: dict[str, ReleasedSize] = {
    "3b": ReleasedSize("mpt", width=2048, layers=24, heads=16, every=1, repository="mpt-1b-redpajama-200b"),
    "4b": ReleasedSize("gpt_neox", width=2560, layers=32, heads=32, every=2, repository="RedPajama-INCITE-Base-3B-v1"),
    "9b": ReleasedSize("mpt", width=4096, layers=32, heads=32, every=4, repository="mpt-7b"),
}


def released_size(source: str) -> ReleasedSize | None:
    """Returns the size that a setting `language` names, with its number of layers; None where it names none."""
    name, _, layers = source.removeprefix(RANDOM).partition(":")
    if not source.startswith(RANDOM) or name not in SIZES or not (layers.isdecimal() or not layers):
        return None
    size = SIZES[name]
    count = int(layers) if layers else size.layers
    return replace(size, layers=count) if 1 <= count <= size.layers else None


def size_of_repository(source: str) -> ReleasedSize | None:
    """The size of the language model whose repository a path or hub:OWNER/NAME@REVISION ends with; None if it is none
    of the released ones."""
    last = source.partition("@")[0].rstrip("/").rpartition("/")[2]
    return next((size for size in SIZES.values() if size.repository == last), None)


def build_language(size: ReleasedSize, entries: int) -> Any:
    """Builds the model with random weights, for so many vocabulary entries."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, MptConfig, MptForCausalLM  # late: torch

    common: dict[str, Any] = {"vocab_size": entries, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
    if size.family == "mpt":
        shape: dict[str, Any] = {"d_model": size.width, "n_layers": size.layers, "n_heads": size.heads}
        return MptForCausalLM(MptConfig(**common, **shape, max_seq_len=CONTEXT))
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            **common,
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.width,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
        )
    )

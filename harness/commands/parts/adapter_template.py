"""The skeleton of a model family's adapter, as text: see harness.commands.parts.new."""

from __future__ import annotations

ADAPTER = '''"""The model family ${name}. Check it with: detmodes check adapter ${name}"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from harness import settings as checks
from harness.errors import ConfigError, DataError
from harness.sequence import Codec, CoordinateSpace, NameVocabulary, vocabulary_names
from harness.types import Category, Example, Sample
from model_zoo import checkpoint

# What `detmodes list models` shows, without importing this module: literals only (see harness.types.Card).
CARDS: list[dict[str, object]] = [
    {
        "settings": {},
        "parameters": 1_000_000,  # of the whole model, within 10%
        "coordinates": "65 bins, y x y x",
        "licence": "say which: of the code, and of the weights",
        "weights": "say where they come from",
    },
]
SETTINGS = {"bins": checks.whole(2, default=65)}
"""Every setting that a suite file may give: its range and its default (see harness.settings)."""


class ${made_by}:
    """Tensor shapes: B images, L tokens, V entries of the vocabulary."""

    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        if problems := self.problems(settings):
            raise ConfigError(*problems)
        self.settings = {**checks.defaults(SETTINGS), **settings}
        bins = self.settings["bins"]
        # One token for each name, for a model that is trained from scratch. One with a tokenizer of its own takes
        # harness.sequence.TokenizerTokens, and the coordinate space and format that it was pretrained with.
        self.tokens = NameVocabulary(vocabulary_names(categories), bins)
        self.codec = Codec(categories, self.tokens, CoordinateSpace(bins))
        self.model = build(self.tokens.size)

    @staticmethod
    def problems(settings: Mapping[str, Any]) -> list[str]:
        """What is wrong with settings, one line each, without loading anything: unknown keys, types, ranges."""
        return checks.problems("${name}", settings, SETTINGS)

    @staticmethod
    def places(settings: Mapping[str, Any]) -> list[str]:
        """Which settings name files, folders or repositories to be read: see harness.protocols.NamesPlaces."""
        return []

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        # For example: harness.images.read(example).resize((64, 64)) for each, stacked, / 255. `read` gives an RGB
        # picture of PIL. Coordinates are relative to the picture, so boxes need no change.
        raise NotImplementedError("pixels: return float32 images [B, 3, H, W] on the CPU, as the model wants them")

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        # Tokens are the prompt (self.tokens.prompt), the target, then padding. No position may see what is after it.
        # Rows may be several times the images: encode each once, and repeat it for its neighbouring rows
        # (repeat_interleave).
        raise NotImplementedError("logits: return logits [B, L, V] for tokens [B, L]: each position's next token")

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        # Encode every image once, repeat it for its rows (repeat_interleave), and let harness.inference.decoding drive:
        #
        #     def begin(own, samples):  # these images, with so many rows each
        #         def step(tokens): ...  # new tokens [rows, n] (first the prompt, then one) -> logits [rows, V]
        #         return Steps(step)
        #     return sample_all(begin, self.codec, examples, temperatures, seed, max_tokens, grammar, device)
        raise NotImplementedError("generate: return for each example one Sample for each temperature (0 is greedy)")

    def describe(self) -> dict[str, object]:
        """What identifies the model in a record, JSON values only: give loaded weights a digest here."""
        return {"name": "${name}", **self.settings, "weights_digest": None}

    def save(self, path: Path) -> None:
        checkpoint.save(self.model, self.tokens.entries, path)

    def load(self, path: Path) -> None:
        tensors, entries = checkpoint.read(path)
        if entries != self.tokens.entries:
            raise DataError(f"{path}: made for another vocabulary ({len(entries)} entries, not {self.tokens.size})")
        checkpoint.load(self.model, tensors)


def build(vocabulary: int) -> nn.Module:
    # What must not be fine-tuned gets requires_grad_(False).
    raise NotImplementedError("build: return the torch.nn.Module, with this many entries in its vocabulary")
'''

ADAPTER_TEST = '''"""${name} keeps the contract of detmodes."""

from __future__ import annotations

from ${name} import ${made_by}

from harness import conformance


def test_conformance() -> None:
    outcomes = conformance.check(${made_by})
    assert [outcome for outcome in outcomes if outcome.state == "failed"] == []
'''

"""Two predictors that read the ground truth: the ceiling and the floor of every figure (see docs/explain/design.md).

Both pass through the codec, so their AP is limited by quantisation only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness import settings as checks
from harness.sequence import Codec, CoordinateSpace, NameVocabulary, Space, vocabulary_names
from harness.sequence.targets import target
from harness.types import Category, Example, Sample

CARDS: list[dict[str, object]] = [
    {
        "settings": {},
        "parameters": None,
        "coordinates": "65 bins, y x y x",
        "licence": "Apache-2.0",
        "weights": "none: it reads the ground truth",
    },
]
DEFAULT_BINS = 65


class _Oracle:
    """Base of the oracles. Setting `bins`: used unless the coordinates of the compared models are given."""

    name: str

    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        self._categories = categories
        self.take_coordinates(CoordinateSpace(settings.get("bins", DEFAULT_BINS)))

    def take_coordinates(self, space: Space) -> None:
        """Answers in this space from now on. For a model that writes numbers as text, whose loss is negligible, the
        oracle keeps its space."""
        bins = getattr(space, "bins", None)
        if isinstance(bins, int):
            self.space, self.bins = space, bins
            self.codec = Codec(self._categories, NameVocabulary(vocabulary_names(self._categories), bins), space)

    @staticmethod
    def problems(settings: Mapping[str, Any]) -> list[str]:
        return checks.problems("oracle", settings, {"bins": checks.whole(2)})

    @staticmethod
    def places(settings: Mapping[str, Any]) -> list[str]:
        del settings  # it reads the ground truth alone
        return []

    def describe(self) -> dict[str, object]:
        usual = self.space == CoordinateSpace(self.bins)
        return {
            "name": self.name,
            "bins": self.bins,
            **({} if usual else {"space": repr(self.space)}),
            "weights_digest": None,
        }

    def _canonical(self, example: Example) -> Sample:
        tokens = target(example, self.codec, "canonical")
        return Sample(tokens, (0.0,) * len(tokens))


class OracleCollapsed(_Oracle):
    """Always answers with the canonical member of the equivalence set: name diversity is exactly 0."""

    name = "oracle-collapsed"

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        del seed, max_tokens, grammar  # deterministic, complete and well-formed whatever these say
        return [[self._canonical(example)] * len(temperatures) for example in examples]


class OracleUniform(_Oracle):
    """Draws each sample uniformly from the members (at temperature 0 it is the canonical one)."""

    name = "oracle-uniform"

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        del max_tokens, grammar
        return [
            [
                self._drawn(example, np.random.default_rng([seed, example.image_id, index, *(example.asked or ())]))
                if temperature > 0
                else self._canonical(example)
                for index, temperature in enumerate(temperatures)
            ]
            for example in examples
        ]

    def _drawn(self, example: Example, rng: np.random.Generator) -> Sample:
        """Draws a member. Its log-probability: each object is drawn from the remaining ones, then its name from its
        names."""
        tokens = target(example, self.codec, "random", rng)
        log_probs = [0.0] * len(tokens)
        mentions = self.codec.decode(tokens, example.width, example.height).mentions
        for position, mention in enumerate(mentions):
            assert mention.category_id is not None
            choices = (len(mentions) - position) * len(self.codec.names_of[mention.category_id])
            log_probs[mention.name_start] = -math.log(choices)
        return Sample(tokens, tuple(log_probs))

"""Computes scores of mentions. All probabilities are raw: temperature 1, no decoding grammar.

In: images, emitted sequences and the mentions in them. Out: for each mention the probability of its name, of its
category over all names, and of its box; only what the score source needs is computed.

A name is identified as soon as no other name continues its tokens. Only where one does (`sofa` and `sofa_bed`, by
tokens) its probability includes that of the terminator: a location or, in a format with names last, a separator or
the end. Probabilities of name and box are conditioned on the preceding tokens.

The other names of an image branch off its sequence as a tree (harness.inference.token_tree): the image is encoded
once, the tokens before a name are read once, and only the requested logits leave the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.inference.token_tree import TokenTree
from harness.inference.tree_queries import TreeQueries, answer_queries
from harness.protocols import Adapter
from harness.sequence import Codec, Ids
from harness.types import Example, Mention, Parsed


@dataclass(frozen=True, slots=True)
class MentionScore:
    """Probabilities in [0, 1] conditioned on the preceding tokens: of the emitted name, of its category over all
    names (None for an unknown name, and where the source needs no category), of the tokens of the box. The source
    "constant" needs none of them."""

    name: float | None
    category: float | None
    locations: float | None

    def of(self, source: str) -> float:
        """Returns the score of a detection under this source, which must be one that the probabilities were computed
        for."""
        if source == "constant":
            return 1.0
        assert self.name is not None
        if source == "sequence":
            assert self.locations is not None
            return self.name * self.locations
        return self.name if source == "name" or self.category is None else self.category


NOT_NEEDED = MentionScore(None, None, None)


@torch.inference_mode()
def score(
    adapter: Adapter,
    examples: Sequence[Example],
    sequences: Sequence[Ids],
    parsed: Sequence[Parsed],
    source: str = "category",
    log_probs: Sequence[Sequence[float]] | None = None,
) -> list[list[MentionScore]]:
    """Scores every mention of one sequence per example.

    Args:
        examples: The image (and question) of each sequence; neighbours of one image share its encoding. sequences:
        Emitted tokens, without the prompt. parsed: What each sequence says. source: Source of the scores: with "name"
        and "sequence" the other names of the category are not scored, with "constant" the model is not run at all.
        log_probs: Log-probabilities of each token from generation, in nats; computed again where they are missing.

    Returns:
        For each sequence the scores of its mentions, in their order.
    """
    adapter.model.eval()
    if source == "constant":
        return [[NOT_NEEDED] * len(answer.mentions) for answer in parsed]
    given = log_probs if log_probs is not None else [None] * len(sequences)
    asked = [
        _SequenceQueries(adapter.codec, adapter.codec.prompt(example), tokens, answer.mentions, source, values)
        for example, tokens, answer, values in zip(examples, sequences, parsed, given, strict=True)
    ]
    answer_queries(adapter, [(example, queries.queries) for example, queries in zip(examples, asked, strict=True)])
    return [queries.scores() for queries in asked]


# ---- what is asked about a sequence ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _LogProbability:
    """A sum of a constant and of answers: those of tokens in a range, and that of one end."""

    queries: TreeQueries
    constant: float = 0.0
    tokens: range = range(0)
    end: int | None = None

    def value(self) -> float:
        asked = sum(self.queries.token_answers[index] for index in self.tokens)
        return self.constant + asked + (0.0 if self.end is None else self.queries.end_answers[self.end])


class _SequenceQueries:
    """The queries from which the scores of one sequence's mentions are computed."""

    def __init__(
        self,
        codec: Codec,
        prompt: Ids,
        sequence: Ids,
        mentions: Sequence[Mention],
        source: str,
        log_probs: Sequence[float] | None,
    ) -> None:
        self._codec, self._sequence, self._log_probs = codec, sequence, log_probs
        self._trunk = [len(prompt) - 1]  # the node after the first n tokens of the sequence, as far as needed
        self.queries = TreeQueries(TokenTree(prompt))
        self._parts = [self._mention(mention, source) for mention in mentions]

    def scores(self) -> list[MentionScore]:
        """Returns the scores of every mention, once the queries are answered."""
        scores = []
        for name, others, box in self._parts:
            probability = math.exp(name.value())
            category = None if others is None else probability + sum(math.exp(other.value()) for other in others)
            scores.append(MentionScore(probability, category, math.exp(box.value())))
        return scores

    def _mention(
        self, mention: Mention, source: str
    ) -> tuple[_LogProbability, list[_LogProbability] | None, _LogProbability]:
        """Adds the queries of a mention: its name, each other name of its category, and its box."""
        box = self._emitted(mention.box_start, mention.box_end)
        name = self._emitted(mention.name_start, mention.name_end, mention.name in self._codec.prefix_names)
        if source != "category" or mention.category_id is None:
            return name, None, box
        start = self._after(mention.name_start)
        others = [other for other in self._codec.names_of[mention.category_id] if other != mention.name]
        return name, [self._other(start, other) for other in others], box

    def _emitted(self, start: int, stop: int, ended: bool = False) -> _LogProbability:
        """Queries tokens of the sequence and, if `ended`, the terminator after them."""
        end = self._end(self._after(stop)) if ended else None
        if self._log_probs is not None:
            return _LogProbability(self.queries, constant=sum(self._log_probs[start:stop]), end=end)
        first = len(self.queries.tokens)
        self.queries.tokens += [(self._after(place), self._sequence[place]) for place in range(start, stop)]
        return _LogProbability(self.queries, tokens=range(first, len(self.queries.tokens)), end=end)

    def _other(self, node: int, name: str) -> _LogProbability:
        """Queries another name that could have followed the node."""
        ids, ended = self._codec.name_ids[name], name in self._codec.prefix_names
        first = len(self.queries.tokens)
        for index, token in enumerate(ids):
            self.queries.tokens.append((node, token))
            if ended or index < len(ids) - 1:
                node = self.queries.tree.child(node, token)
        return _LogProbability(
            self.queries, tokens=range(first, len(self.queries.tokens)), end=self._end(node) if ended else None
        )

    def _after(self, count: int) -> int:
        """Returns the node after so many tokens of the sequence."""
        while len(self._trunk) <= count:
            self._trunk.append(self.queries.tree.child(self._trunk[-1], self._sequence[len(self._trunk) - 1]))
        return self._trunk[count]

    def _end(self, node: int) -> int:
        self.queries.ends.append(node)
        return len(self.queries.ends) - 1

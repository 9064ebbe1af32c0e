"""Scores of mentions. All probabilities are raw: temperature 1, no decoding grammar.

In: images, emitted sequences and the mentions in them. Out: for each mention the probability of its name, of its
category over all names, and of its box; only what the score source needs is computed.

A name is identified as soon as no other name continues its tokens; only where one does (`sofa` and
`sofa_bed`, by tokens) is the terminator, the probability that what ends a name follows, part of its probability: a
location or, in a format that has names last, a separator or the end. Name and box are given what stands before them.

An image's other names branch off its sequence as a tree (harness.inference.token_tree): the image is encoded once, what
stands before a name is read once, and of the logits only what is asked for leaves the device.
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
    """Probabilities in [0, 1], given what stands before: of the emitted name, of its category over all names (None
    for an unknown name, and where the source needs no category), of the tokens of the box. The source "constant" needs
    none of them."""

    name: float | None
    category: float | None
    locations: float | None

    def of(self, source: str) -> float:
        """The score that a detection gets from this source, which must be one that these were computed for."""
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
        examples: The image (and question) of each sequence; neighbours of one image share its encoding.
        sequences: Emitted tokens, without the prompt.
        parsed: What each sequence says.
        source: What the scores are for: with "name" and "sequence" no other name of the category is looked at, with
            "constant" the model is not asked at all.
        log_probs: Those of each token as generation found them, in nats; asked again where there are none.

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
    """A sum of what is known and of answers: those of tokens in a range, and that of one end."""

    queries: TreeQueries
    constant: float = 0.0
    tokens: range = range(0)
    end: int | None = None

    def value(self) -> float:
        asked = sum(self.queries.token_answers[index] for index in self.tokens)
        return self.constant + asked + (0.0 if self.end is None else self.queries.end_answers[self.end])


class _SequenceQueries:
    """What the scores of one sequence's mentions are made of."""

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
        self._trunk = [len(prompt) - 1]  # the node after the first n tokens of the sequence, as far as it is needed
        self.queries = TreeQueries(TokenTree(prompt))
        self._parts = [self._mention(mention, source) for mention in mentions]

    def scores(self) -> list[MentionScore]:
        """Of every mention, once the queries are answered."""
        scores = []
        for name, others, box in self._parts:
            probability = math.exp(name.value())
            category = None if others is None else probability + sum(math.exp(other.value()) for other in others)
            scores.append(MentionScore(probability, category, math.exp(box.value())))
        return scores

    def _mention(
        self, mention: Mention, source: str
    ) -> tuple[_LogProbability, list[_LogProbability] | None, _LogProbability]:
        """Of its name, of each other name of its category, of its box."""
        box = self._emitted(mention.box_start, mention.box_end)
        name = self._emitted(mention.name_start, mention.name_end, mention.name in self._codec.prefix_names)
        if source != "category" or mention.category_id is None:
            return name, None, box
        start = self._after(mention.name_start)
        others = [other for other in self._codec.names_of[mention.category_id] if other != mention.name]
        return name, [self._other(start, other) for other in others], box

    def _emitted(self, start: int, stop: int, ended: bool = False) -> _LogProbability:
        """Of tokens of the sequence and, if `ended`, of what ends a name after them."""
        end = self._end(self._after(stop)) if ended else None
        if self._log_probs is not None:
            return _LogProbability(self.queries, constant=sum(self._log_probs[start:stop]), end=end)
        first = len(self.queries.tokens)
        self.queries.tokens += [(self._after(place), self._sequence[place]) for place in range(start, stop)]
        return _LogProbability(self.queries, tokens=range(first, len(self.queries.tokens)), end=end)

    def _other(self, node: int, name: str) -> _LogProbability:
        """Of a name that would have followed the node."""
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
        """The node after so many tokens of the sequence."""
        while len(self._trunk) <= count:
            self._trunk.append(self.queries.tree.child(self._trunk[-1], self._sequence[len(self._trunk) - 1]))
        return self._trunk[count]

    def _end(self, node: int) -> int:
        self.queries.ends.append(node)
        return len(self.queries.ends) - 1

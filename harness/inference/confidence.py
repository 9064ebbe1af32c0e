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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.inference.pixels import read_pixels
from harness.inference.token_tree import TokenTree, pack, unroll
from harness.protocols import Adapter, EncodesImages
from harness.sequence import Codec, Ids
from harness.types import Example, Mention, Parsed, Projection, TokenTrees

IMAGES = 32
"""Images that are read and encoded at once."""
POSITIONS = 8192
"""Tokens of a forward pass, padding included: more of them are no faster, and take more memory."""
PAIRS = 2**22
"""Pairs of tokens of which one may see the other, in a forward pass over trees."""
LOGITS = 2**26
"""Numbers that are multiplied out at once (256 MiB)."""


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
    _answer(adapter, [(example, queries.queries) for example, queries in zip(examples, asked, strict=True)])
    return [queries.scores() for queries in asked]


# ---- what is asked about a sequence ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _TreeQueries:
    """Log-probabilities in nats that are asked of a model: of single tokens after a node of a tree, and of whatever
    may end a name there. The answers come in the order of the questions."""

    tree: TokenTree
    tokens: list[tuple[int, int]] = field(default_factory=list)  # (node, the token that follows it)
    ends: list[int] = field(default_factory=list)  # nodes
    token_answers: list[float] = field(default_factory=list)
    end_answers: list[float] = field(default_factory=list)

    def nodes(self) -> list[int]:
        """Every node that something is asked about, once."""
        return list(dict.fromkeys([*(node for node, _ in self.tokens), *self.ends]))


@dataclass(frozen=True, slots=True)
class _LogProbability:
    """A sum of what is known and of answers: those of tokens in a range, and that of one end."""

    queries: _TreeQueries
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
        self.queries = _TreeQueries(TokenTree(prompt))
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


# ---- answering -------------------------------------------------------------------------------------------------------


def _answer(adapter: Adapter, asked: Sequence[tuple[Example, _TreeQueries]]) -> None:
    """Fills in the answers; sequences about which nothing is asked cost nothing."""
    needed = [(example, queries) for example, queries in asked if queries.tokens or queries.ends]
    of_images = [list(pairs) for _, pairs in groupby(needed, key=lambda pair: pair[0].key)]
    for start in range(0, len(of_images), IMAGES):
        images = of_images[start : start + IMAGES]
        device = next(adapter.model.parameters()).device
        pixels = read_pixels(adapter, [pairs[0][0] for pairs in images]).to(device)
        if not isinstance(adapter, EncodesImages):
            for image, of_image in enumerate(images):
                _answer_by_logits(adapter, pixels[image : image + 1], [queries for _, queries in of_image])
            continue
        encoded = adapter.encode(pixels)
        trees = [(queries, image) for image, pairs in enumerate(images) for _, queries in pairs]
        # Trees of a size go together, so that little is padding.
        for part in _parts(sorted(trees, key=lambda tree: len(tree[0].tree)), adapter.reads_trees):
            queries = [of_tree for of_tree, _ in part]
            tokens, places, rows = _laid_out(queries, adapter)
            of_rows = torch.tensor([part[index][1] for index in rows], device=device)
            states = adapter.read(encoded[of_rows], tokens.to(device))
            _fill(adapter.codec, queries, places, states)


def _answer_by_logits(adapter: Adapter, pixels: Tensor, asked: Sequence[_TreeQueries]) -> None:
    """Asks an adapter that has no more than `logits`. pixels [1, 3, H, W]: the image that all of it is about."""
    for part in _parts([(queries, 0) for queries in asked], packed=False):
        queries = [of_tree for of_tree, _ in part]
        tokens, places, _ = _laid_out(queries, adapter)
        assert isinstance(tokens, Tensor)
        _fill(adapter.codec, queries, places, adapter.logits(pixels, tokens.to(pixels.device)))


def _parts(trees: Sequence[tuple[_TreeQueries, int]], packed: bool) -> Iterator[list[tuple[_TreeQueries, int]]]:
    """Neighbours that make up one forward pass; a tree that is too large for any has its own."""
    part: list[tuple[_TreeQueries, int]] = []
    rows = length = 0
    for tree in trees:
        more, longest = (1, len(tree[0].tree)) if packed else tree[0].tree.unrolled_size()
        both = max(length, longest)
        pairs = (rows + more) * both**2 if packed else 0
        if part and ((rows + more) * both > POSITIONS or pairs > PAIRS):
            yield part
            part, rows, both = [], 0, longest
        part.append(tree)
        rows, length = rows + more, both
    if part:
        yield part


def _laid_out(
    asked: Sequence[_TreeQueries], adapter: Adapter
) -> tuple[Tensor | TokenTrees, list[tuple[int, int]], list[int]]:
    """Trees as the adapter reads them; (row, column) of every node that is asked about, in order; the tree of each
    row."""
    pad, trees = adapter.codec.tokens.pad, [queries.tree for queries in asked]
    if isinstance(adapter, EncodesImages) and adapter.reads_trees:
        places = [(row, node) for row, queries in enumerate(asked) for node in queries.nodes()]
        return pack(trees, pad), places, list(range(len(trees)))
    rows, where, owners = unroll(trees, pad)
    places = [where[index][node] for index, queries in enumerate(asked) for node in queries.nodes()]
    return rows, places, owners


def _fill(
    codec: Codec, asked: Sequence[_TreeQueries], places: Sequence[tuple[int, int]], states: Tensor | Projection
) -> None:
    """Answers from logits [R, L, V] or what they are made of, at the (row, column) of every node that is asked about.
    Logits are multiplied out there alone, and answers leave the device together."""
    device = states.device if isinstance(states, Tensor) else states.hidden.device
    rows, columns = torch.tensor(places, device=device).T
    pairs, ends = _flat(asked)
    nodes, tokens = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    last = torch.tensor(ends, dtype=torch.long)
    terminators = torch.tensor(codec.form.terminators, device=device)
    of_tokens, of_ends = torch.zeros(len(pairs), device=device), torch.zeros(len(ends), device=device)
    vocabulary = states.shape[-1] if isinstance(states, Tensor) else len(states.weight)
    size = max(1, LOGITS // vocabulary)
    for start in range(0, len(places), size):
        part = slice(start, start + size)
        log_p = _logits(states, rows[part], columns[part]).float().log_softmax(-1)
        here, ended = ((indices >= start) & (indices < start + size) for indices in (nodes, last))
        of_tokens[here.to(device)] = log_p[(nodes[here] - start).to(device), tokens[here].to(device)]
        of_ends[ended.to(device)] = log_p[(last[ended] - start).to(device)][:, terminators].logsumexp(-1)
    answers = torch.cat([of_tokens, of_ends]).tolist()
    token_answers, found_ends = iter(answers[: len(pairs)]), iter(answers[len(pairs) :])
    for queries in asked:
        queries.token_answers = [next(token_answers) for _ in queries.tokens]
        queries.end_answers = [next(found_ends) for _ in queries.ends]


def _flat(asked: Sequence[_TreeQueries]) -> tuple[list[tuple[int, int]], list[int]]:
    """All questions one after the other, with the place of their node among all nodes that are asked about."""
    pairs: list[tuple[int, int]] = []
    ends: list[int] = []
    count = 0
    for queries in asked:
        index = {node: count + place for place, node in enumerate(queries.nodes())}
        pairs += [(index[node], token) for node, token in queries.tokens]
        ends += [index[node] for node in queries.ends]
        count += len(index)
    return pairs, ends


def _logits(states: Tensor | Projection, rows: Tensor, columns: Tensor) -> Tensor:
    """[Q, V] at these places."""
    if isinstance(states, Tensor):
        return states[rows, columns]
    return F.linear(states.hidden[rows, columns], states.weight)

"""What is asked of a model about sequences that branch off each other, and the forward passes that answer it.

In: for each sequence a tree of tokens, with questions about log-probabilities after its nodes. Out: the answers, in the
questions themselves. An image is encoded once. A model that reads trees reads each once; others read a row for each
leaf, after the prompt where they read that once (harness.protocols).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.inference.pixels import read_pixels
from harness.inference.token_tree import TokenTree, pack, unroll
from harness.protocols import Adapter, EncodesImages, ReadsPrompts
from harness.sequence import Codec
from harness.types import Example, Projection, TokenTrees

IMAGES = 32
"""Images that are read and encoded at once."""
POSITIONS = 8192
"""Tokens of a forward pass, padding included: with more it is no faster, and takes more memory."""
PAIRS = 2**22
"""Pairs of tokens of which one may attend to the other, in a forward pass over trees."""
LOGITS = 2**26
"""Logits that are computed at once (256 MiB)."""


@dataclass(slots=True)
class TreeQueries:
    """Log-probabilities in nats that are requested from a model: of single tokens after a node of a tree, and of any
    terminator of a name there. The answers are in the order of the queries."""

    tree: TokenTree
    tokens: list[tuple[int, int]] = field(default_factory=list)  # (node, the token that follows it)
    ends: list[int] = field(default_factory=list)  # nodes
    token_answers: list[float] = field(default_factory=list)
    end_answers: list[float] = field(default_factory=list)

    def nodes(self) -> list[int]:
        """Returns every node with a query, once."""
        return list(dict.fromkeys([*(node for node, _ in self.tokens), *self.ends]))


def answer_queries(adapter: Adapter, asked: Sequence[tuple[Example, TreeQueries]]) -> None:
    """Fills in the answers; sequences without queries cost nothing."""
    needed = [(example, queries) for example, queries in asked if queries.tokens or queries.ends]
    of_images = [list(pairs) for _, pairs in groupby(needed, key=lambda pair: pair[0].key)]
    for start in range(0, len(of_images), IMAGES):
        images = of_images[start : start + IMAGES]
        device = next(adapter.model.parameters()).device
        pixels = read_pixels(adapter, [pairs[0][0] for pairs in images]).to(device)
        if isinstance(adapter, ReadsPrompts):
            _answer_after_prompts(adapter, pixels, [[queries for _, queries in pairs] for pairs in images])
            continue
        if not isinstance(adapter, EncodesImages):
            for image, pairs in enumerate(images):
                _answer_by_logits(adapter, pixels[image : image + 1], [queries for _, queries in pairs])
            continue
        encoded = adapter.encode(pixels)
        trees = [(queries, image) for image, pairs in enumerate(images) for _, queries in pairs]
        # Trees of similar size share a batch, so that there is little padding.
        for part in _parts(sorted(trees, key=lambda tree: len(tree[0].tree)), adapter.reads_trees):
            queries = [of_tree for of_tree, _ in part]
            tokens, places, rows = _laid_out(queries, adapter)
            of_rows = torch.tensor([part[index][1] for index in rows], device=device)
            states = adapter.read(encoded[of_rows], tokens.to(device))
            _fill(adapter.codec, queries, places, states)


def _answer_after_prompts(adapter: ReadsPrompts, pixels: Tensor, asked: Sequence[Sequence[TreeQueries]]) -> None:
    """Asks an adapter that reads an image and its prompt once. asked: for each image of pixels [B, 3, H, W]."""
    assert isinstance(adapter, Adapter)
    prompts = [of_image[0].tree.tokens[: of_image[0].tree.root + 1] for of_image in asked]
    size = max(1, POSITIONS // max(map(len, prompts)))
    for length in dict.fromkeys(map(len, prompts)):
        chosen = [image for image, prompt in enumerate(prompts) if len(prompt) == length]
        for start in range(0, len(chosen), size):
            some = chosen[start : start + size]
            tokens = torch.tensor([prompts[image] for image in some], device=pixels.device)
            first, follow = adapter.read_prompts(pixels[some], tokens)
            trees = [(queries, place) for place, image in enumerate(some) for queries in asked[image]]
            # Trees of a size go together, so that little is padding.
            for part in _parts(sorted(trees, key=lambda tree: len(tree[0].tree)), packed=adapter.follows_trees):
                queries = [of_tree for of_tree, _ in part]
                layout, places, owners = _laid_out(queries, adapter)
                after = layout.after(length) if isinstance(layout, TokenTrees) else layout[:, length:]
                images = torch.tensor([part[index][1] for index in owners], device=pixels.device)
                # Where nothing follows any prompt nothing is read.
                anything = max(len(of_tree.tree) for of_tree in queries) > length
                rest = follow(images, after.to(pixels.device)) if anything else first[:0, None]
                after_prompt = [(row, column - length + 1) for row, column in places]
                _fill(adapter.codec, queries, after_prompt, _Followed(first[images], rest))


@dataclass(frozen=True, slots=True)
class _Followed:
    """Logits [R, V] at the last token of each row's prompt, and [R, L, V] at the tokens that follow."""

    first: Tensor
    rest: Tensor

    def take(self, rows: Tensor, columns: Tensor) -> Tensor:
        """[Q, V]; column 0 is the last token of the prompt."""
        logits = self.first[rows]
        later = columns > 0
        logits[later] = self.rest[rows[later], columns[later] - 1]
        return logits


def _answer_by_logits(adapter: Adapter, pixels: Tensor, asked: Sequence[TreeQueries]) -> None:
    """Answers the queries of one image with an adapter that has only `logits`. pixels [1, 3, H, W]: the image."""
    for part in _parts([(queries, 0) for queries in asked], packed=False):
        queries = [of_tree for of_tree, _ in part]
        tokens, places, _ = _laid_out(queries, adapter)
        assert isinstance(tokens, Tensor)
        _fill(adapter.codec, queries, places, adapter.logits(pixels, tokens.to(pixels.device)))


def _parts(trees: Sequence[tuple[TreeQueries, int]], packed: bool) -> Iterator[list[tuple[TreeQueries, int]]]:
    """Yields neighbours that form one forward pass; a tree that is too large gets one to itself."""
    part: list[tuple[TreeQueries, int]] = []
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
    asked: Sequence[TreeQueries], adapter: Adapter
) -> tuple[Tensor | TokenTrees, list[tuple[int, int]], list[int]]:
    """Returns the trees in the adapter's form, (row, column) of every queried node in order, and the tree of each
    row."""
    pad, trees = adapter.codec.tokens.pad, [queries.tree for queries in asked]
    if _takes_trees(adapter):
        places = [(row, node) for row, queries in enumerate(asked) for node in queries.nodes()]
        return pack(trees, pad), places, list(range(len(trees)))
    rows, where, owners = unroll(trees, pad)
    places = [where[index][node] for index, queries in enumerate(asked) for node in queries.nodes()]
    return rows, places, owners


def _takes_trees(adapter: Adapter) -> bool:
    if isinstance(adapter, ReadsPrompts):
        return adapter.follows_trees
    return isinstance(adapter, EncodesImages) and adapter.reads_trees


def _fill(
    codec: Codec,
    asked: Sequence[TreeQueries],
    places: Sequence[tuple[int, int]],
    states: Tensor | Projection | _Followed,
) -> None:
    """Fills in answers from logits [R, L, V] or hidden states, at the (row, column) of every queried node. Logits are
    computed only there, and the answers leave the device in one transfer."""
    sample = (
        states.hidden if isinstance(states, Projection) else states.first if isinstance(states, _Followed) else states
    )
    device = sample.device
    rows, columns = torch.tensor(places, device=device).T
    pairs, ends = _flat(asked)
    nodes, tokens = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    last = torch.tensor(ends, dtype=torch.long)
    terminators = torch.tensor(codec.form.terminators, device=device)
    of_tokens, of_ends = torch.zeros(len(pairs), device=device), torch.zeros(len(ends), device=device)
    vocabulary = len(states.weight) if isinstance(states, Projection) else sample.shape[-1]
    size = max(1, LOGITS // vocabulary)
    for start in range(0, len(places), size):
        part = slice(start, start + size)
        log_p = _logits(states, rows[part], columns[part]).float().log_softmax(-1)
        here, ended = ((indices >= start) & (indices < start + size) for indices in (nodes, last))
        of_tokens[here.to(device)] = log_p[(nodes[here] - start).to(device), tokens[here].to(device)]
        of_ends[ended.to(device)] = log_p[(last[ended] - start).to(device)][:, terminators].logsumexp(-1)
    answers = torch.cat([of_tokens, of_ends]).tolist()
    token_answers, end_answers = iter(answers[: len(pairs)]), iter(answers[len(pairs) :])
    for queries in asked:
        queries.token_answers = [next(token_answers) for _ in queries.tokens]
        queries.end_answers = [next(end_answers) for _ in queries.ends]


def _flat(asked: Sequence[TreeQueries]) -> tuple[list[tuple[int, int]], list[int]]:
    """Concatenates all queries, each with the position of its node among all queried nodes."""
    pairs: list[tuple[int, int]] = []
    ends: list[int] = []
    count = 0
    for queries in asked:
        index = {node: count + place for place, node in enumerate(queries.nodes())}
        pairs += [(index[node], token) for node, token in queries.tokens]
        ends += [index[node] for node in queries.ends]
        count += len(index)
    return pairs, ends


def _logits(states: Tensor | Projection | _Followed, rows: Tensor, columns: Tensor) -> Tensor:
    """Computes logits [Q, V] at these places."""
    if isinstance(states, _Followed):
        return states.take(rows, columns)
    if isinstance(states, Tensor):
        return states[rows, columns]
    return F.linear(states.hidden[rows, columns], states.weight)

"""Small stand-ins with known answers: a tokenizer of pieces, and an adapter whose probabilities are a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.inference.decoding import sample, uniforms
from harness.sequence import Codec, CoordinateSpace, vocabulary_names
from harness.types import Box, Category, Example, Instance, Sample

Split = Callable[[str], list[str]]


def words(name: str) -> list[str]:
    """sofa_bed -> sofa, _bed: the tokens of `sofa` begin those of `sofa_bed`."""
    return re.findall(r"_?[^_]+|_", name)


def characters(name: str) -> list[str]:
    return list(name)


class PieceTokens:
    """harness.sequence.Tokens over several tokens a name; every piece of every name has one id."""

    def __init__(self, names: Iterable[str], bins: int, split: Split = words) -> None:
        self.pad, self.image, self.begin, self.separator, self.end = range(5)
        self.prompt: tuple[int, ...] = (self.image, self.begin)
        self.locations = tuple(range(5, 5 + bins))
        self.pieces = list(dict.fromkeys(piece for name in names for piece in split(name)))
        self.size = 5 + bins + len(self.pieces)
        self._split, self._first = split, 5 + bins
        self._ids = {piece: self._first + index for index, piece in enumerate(self.pieces)}

    def encode_name(self, name: str) -> tuple[int, ...]:
        return tuple(self._ids[piece] for piece in self._split(name))

    def decode_name(self, ids: Sequence[int]) -> str:
        special = {self.separator: ";"}
        return "".join(self.pieces[i - self._first] if i >= self._first else special.get(i, f"<{i}>") for i in ids)

    def __getitem__(self, piece: str) -> int:
        return self._ids[piece]


def codec_of(*names: Sequence[str], bins: int, split: Split = words) -> Codec:
    """Categories 1, 2, ... with these names each, and the piece tokenizer."""
    categories = [Category(index, tuple(of_category), "f") for index, of_category in enumerate(names, start=1)]
    return Codec(categories, PieceTokens(vocabulary_names(categories), bins, split), CoordinateSpace(bins))


def pieces_of(codec: Codec) -> PieceTokens:
    """The tokenizer of `codec_of`'s codec."""
    assert isinstance(codec.tokens, PieceTokens)
    return codec.tokens


def example_of(image_id: int, objects: Sequence[tuple[int, Box]] = (), width: int = 8, height: int = 8) -> Example:
    """An image whose instances get the ids 1, 2, ... in order of `objects` (category id, box)."""
    instances = tuple(Instance(index, c, box) for index, (c, box) in enumerate(objects, start=1))
    return Example(image_id, Path("image.png"), width, height, instances)


class TableAdapter:
    """An Adapter that knows the current token only: logits = log(tables[image id modulo M][token]).

    tables [M, V, V], each row a distribution over the next token. `forwards` collects how many sequences each
    teacher-forced call had; `shrinks` how many rows went on each time that finished ones were dropped.
    """

    def __init__(self, codec: Codec, tables: Tensor, shrink: bool = True) -> None:
        self.codec = codec
        self.model = nn.ParameterList([nn.Parameter(tables.log(), requires_grad=False)])
        self.shrink = shrink
        self.forwards: list[int] = []
        self.shrinks: list[int] = []

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        """[B, 3, 1, 1], the image id in every channel."""
        ids = torch.tensor([float(example.image_id) for example in examples])
        return ids[:, None, None, None].expand(-1, 3, 1, 1)

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        self.forwards.append(len(tokens))
        return self._rows(pixels.repeat_interleave(len(tokens) // len(pixels), dim=0), tokens)

    def _rows(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        table: Tensor = self.model[0]
        return table[(pixels[:, 0, 0, 0].long() % len(table))[:, None], tokens]

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        samples = len(temperatures)
        images = self.pixels(examples).repeat_interleave(samples, dim=0)

        def step(tokens: Tensor) -> Tensor:
            return self._rows(images, tokens)[:, -1]

        def keep(rows: Tensor) -> None:
            nonlocal images
            images = images[rows]
            self.shrinks.append(len(rows))

        heat = torch.tensor(list(temperatures) * len(examples))
        noise = uniforms(examples, samples, max_tokens, seed)
        flat = sample(step, self.codec, examples, heat, noise, grammar, keep if self.shrink else None)
        return [flat[start : start + samples] for start in range(0, len(flat), samples)]

    def describe(self) -> dict[str, object]:
        return {"name": "table"}

    def save(self, path: Path) -> None:
        raise NotImplementedError

    def load(self, path: Path) -> None:
        raise NotImplementedError


def table(size: int, rows: Mapping[int, Mapping[int, float]]) -> Tensor:
    """One table [V, V] from {token: {next token: probability}}; rows that are not given are uniform."""
    full = torch.full((size, size), 1.0 / size)
    for token, following in rows.items():
        full[token] = 0.0
        for next_token, probability in following.items():
            full[token, next_token] = probability
        assert abs(float(full[token].sum()) - 1.0) < 1e-6
    return full


def random_tables(count: int, size: int, seed: int, spread: float = 1.0) -> Tensor:
    """[count, V, V]: softmax of normal logits with this standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, size, generator=generator).mul_(spread).softmax(-1)


Answer = tuple[int, ...] | Sequence[tuple[str, Box]]
"""Tokens with their end, or what they say: names with boxes in an image of 64 x 64."""


class Scripted:
    """A Predictor that answers what it is told to: `answers` of an example has the greedy answer, then the samples.

    The first token of an answer has a log-probability of -0.25, each one after it 0.25 less.
    """

    def __init__(self, codec: Codec, answers: Callable[[Example], Sequence[Answer]]) -> None:
        self.codec, self._answers = codec, answers

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int = 0,
        max_tokens: int = 0,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        del seed, max_tokens, grammar
        return [[self.sample(answer) for answer in self._answers(e)[: len(temperatures)]] for e in examples]

    def sample(self, answer: Answer) -> Sample:
        tokens = answer if isinstance(answer, tuple) else self.codec.encode(answer, 64, 64)
        return Sample(tuple(tokens), tuple(-0.25 * (index + 1) for index in range(len(tokens))))

    def describe(self) -> dict[str, object]:
        return {"name": "scripted"}

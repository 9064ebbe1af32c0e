"""Boxes and names <-> token sequence. Pure: no model, no file.

A sequence lists objects as `name <loc><loc><loc><loc>`, separated, ended by the end token (DESIGN 6.1):

    red_disc <loc3> <loc10> <loc20> <loc31> ; blue_box <loc0> ... <|endofchunk|>

The adapter declares its tokens and its coordinate space; `Codec` joins them with a benchmark's names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, Protocol

from harness.errors import ConfigError, DataError
from harness.types import Box, Category, Mention, Parsed

KINDS = ("name", "location", "separator", "end")
"""What a target token is; `Codec.kinds` gives indices into this."""


@dataclass(frozen=True, slots=True)
class CoordinateSpace:
    """Quantised, normalised coordinates: bin = round(coordinate / image side * (bins - 1)), bins - 1 being
    the far edge. With bins = side + 1 there is one bin per pixel edge and integer boxes survive exactly."""

    bins: int
    order: Literal["yxyx", "xyxy"] = "yxyx"

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ConfigError(f"bins: expected at least 2, got {self.bins}")

    def quantise(self, box: Box, width: int, height: int) -> tuple[int, int, int, int]:
        """Four bins in `order`. Coordinates outside the image are clipped to its edges."""
        x0, y0, x1, y1 = box.corners
        bins = [
            round(min(max(value / side, 0.0), 1.0) * (self.bins - 1))
            for value, side in ((y0, height), (x0, width), (y1, height), (x1, width))
        ]
        return self._swap((bins[0], bins[1], bins[2], bins[3]))

    def restore(self, bins: tuple[int, int, int, int], width: int, height: int) -> Box | None:
        """The box of four bins in `order`; None where it has no area (its edges meet or are inverted)."""
        y0, x0, y1, x1 = self._swap(bins)
        if y1 <= y0 or x1 <= x0:
            return None
        # One product and one quotient, so that a bin on a pixel edge gives that integer exactly.
        x, y = x0 * width / (self.bins - 1), y0 * height / (self.bins - 1)
        return Box(x, y, (x1 - x0) * width / (self.bins - 1), (y1 - y0) * height / (self.bins - 1))

    def _swap(self, four: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Between `yxyx` and `order`; its own inverse."""
        a, b, c, d = four
        return (a, b, c, d) if self.order == "yxyx" else (b, a, d, c)


class Tokens(Protocol):
    """What a model family's tokenizer must answer. Every id is below `size`."""

    size: int
    pad: int
    separator: int
    end: int
    prompt: tuple[int, ...]
    locations: tuple[int, ...]

    def encode_name(self, name: str) -> tuple[int, ...]:
        """Ids of a category name; never empty, never a location, separator or end token."""
        ...

    def decode_name(self, ids: Sequence[int]) -> str:
        """Inverse of `encode_name`; also readable for ids that are no known name."""
        ...


class NameVocabulary:
    """Closed vocabulary with one token per category name, for models trained from scratch.

    `entries` is the order of the embedding rows: special tokens, locations, names in the order given.
    """

    SPECIAL = ("<pad>", "<image>", "<detect>", ";", "<|endofchunk|>")

    def __init__(self, names: Iterable[str], bins: int) -> None:
        self.entries = (*self.SPECIAL, *(f"<loc{bin}>" for bin in range(bins)), *names)
        self.ids = {entry: index for index, entry in enumerate(self.entries)}
        if len(self.ids) != len(self.entries):
            raise DataError("category names: expected each name once, and none that is a special token")
        self.size = len(self.entries)
        self.pad, self.image, detect, self.separator, self.end = range(len(self.SPECIAL))
        self.prompt: tuple[int, ...] = (self.image, detect)
        self.locations = tuple(range(len(self.SPECIAL), len(self.SPECIAL) + bins))

    def encode_name(self, name: str) -> tuple[int, ...]:
        return (self.ids[name],)

    def decode_name(self, ids: Sequence[int]) -> str:
        return " ".join(self.entries[index] for index in ids)


class Codec:
    """Encodes objects into target tokens and reads emitted tokens back.

    `decode(encode(objects))` gives the same names and each edge within half a bin. Parsing never raises on
    model output: what cannot be read is counted.
    """

    def __init__(self, categories: Sequence[Category], tokens: Tokens, space: CoordinateSpace) -> None:
        if len(tokens.locations) != space.bins:
            raise ConfigError(f"bins: {space.bins} asked for, the tokenizer has {len(tokens.locations)} locations")
        self.categories = tuple(categories)
        self.tokens = tokens
        self.space = space
        self.category_of = {name: category.id for category in categories for name in category.names}
        self.names_of = {category.id: category.names for category in categories}
        self.name_ids = {name: tokens.encode_name(name) for name in self.category_of}
        self._location_bin = {token: bin for bin, token in enumerate(tokens.locations)}
        self._name_of_ids = {ids: name for name, ids in self.name_ids.items()}
        if len(self._name_of_ids) != len(self.name_ids):
            raise DataError(
                "category names: two names have the same tokens; expected a tokenizer that tells them apart"
            )

    @cached_property
    def prefix_names(self) -> frozenset[str]:
        """Names whose tokens begin another name's tokens. Only these need their terminator to be told apart."""
        beginnings = {ids[:cut] for ids in self._name_of_ids for cut in range(1, len(ids))}
        return frozenset(name for ids, name in self._name_of_ids.items() if ids in beginnings)

    def encode(self, objects: Sequence[tuple[str, Box]], width: int, height: int) -> tuple[int, ...]:
        """Target tokens, end token included. An image without objects is the end token alone."""
        tokens: list[int] = []
        for position, (name, box) in enumerate(objects):
            if position:
                tokens.append(self.tokens.separator)
            tokens.extend(self.name_ids[name])
            tokens.extend(self.tokens.locations[bin] for bin in self.space.quantise(box, width, height))
        return (*tokens, self.tokens.end)

    def decode(self, tokens: Sequence[int], width: int, height: int) -> Parsed:
        """Mentions in order. Malformed: an entry that is not one name and four locations of a box with area.

        Without an end token the sequence is truncated; its last entry then counts only if it is complete.
        """
        truncated = self.tokens.end not in tokens
        body = tokens if truncated else tokens[: list(tokens).index(self.tokens.end)]
        mentions: list[Mention] = []
        malformed = 0
        for start, entry in self._entries(body):
            mention = self._mention(entry, start, width, height)
            if mention is not None:
                mentions.append(mention)
            elif not (truncated and start + len(entry) == len(body)):
                malformed += 1
        return Parsed(tuple(mentions), malformed, truncated)

    def kinds(self, tokens: Sequence[int]) -> list[int]:
        """For each token its index in KINDS."""
        special = {self.tokens.separator: 2, self.tokens.end: 3}
        return [1 if token in self._location_bin else special.get(token, 0) for token in tokens]

    def text(self, tokens: Sequence[int]) -> str:
        """The sequence as a person reads it."""
        words: list[str] = []
        name: list[int] = []
        for token, kind in zip(tokens, self.kinds(tokens), strict=True):
            if kind == 0:
                name.append(token)
                continue
            if name:
                words.append(self.tokens.decode_name(name))
                name = []
            words.append(f"<loc{self._location_bin[token]}>" if kind == 1 else (";", "<end>")[kind - 2])
        return " ".join([*words, *([self.tokens.decode_name(name)] if name else [])])

    def _entries(self, body: Sequence[int]) -> list[tuple[int, Sequence[int]]]:
        """Start and tokens of each separated entry; none in an empty body."""
        if not body:
            return []
        cuts = [-1, *(index for index, token in enumerate(body) if token == self.tokens.separator), len(body)]
        return [(left + 1, body[left + 1 : right]) for left, right in pairwise(cuts)]

    def _mention(self, entry: Sequence[int], start: int, width: int, height: int) -> Mention | None:
        bins = [self._location_bin.get(token) for token in entry]
        cut = len(entry) - 4
        if cut < 1 or any(bin is not None for bin in bins[:cut]):
            return None
        y0, x0, y1, x1 = bins[cut:]
        if y0 is None or x0 is None or y1 is None or x1 is None:
            return None
        box = self.space.restore((y0, x0, y1, x1), width, height)
        if box is None:
            return None
        ids = tuple(entry[:cut])
        name = self._name_of_ids.get(ids)
        category = None if name is None else self.category_of[name]
        text = self.tokens.decode_name(ids) if name is None else name
        return Mention(text, category, box, start, start + cut, start + len(entry))


class Grammar:
    """The sequences that `Codec.decode` reads without a complaint, as a state machine over tokens.

    A state is what has been read since the last separator. `allowed(state)` are the tokens that may follow;
    the empty answer (the end token alone) is valid. Boxes must have area, so a far edge starts one bin
    after its near edge.
    """

    START: tuple[int, ...] = ()

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._bins = codec.space.bins
        self._continues: dict[tuple[int, ...], set[int]] = {}
        for ids in codec.name_ids.values():
            for cut in range(len(ids)):
                self._continues.setdefault(ids[:cut], set()).add(ids[cut])
        self._names = set(codec.name_ids.values())

    def allowed(self, state: tuple[int, ...], first: bool) -> frozenset[int]:
        """Tokens that may follow `state`; `first`: no entry is complete yet."""
        tokens, locations = self._codec.tokens, self._locations(state)
        name = state[: len(state) - len(locations)]
        if len(locations) == 4:
            return frozenset({tokens.separator, tokens.end})
        if not locations:
            following = set(self._continues.get(name, ()))
            if not name and first:
                following.add(tokens.end)
            if name not in self._names:
                return frozenset(following)
            return frozenset(following) | self._range(0, self._bins - 1)
        near = locations[len(locations) - 2] + 1 if len(locations) >= 2 else 0
        return self._range(near, self._bins if len(locations) >= 2 else self._bins - 1)

    def advance(self, state: tuple[int, ...], token: int) -> tuple[int, ...]:
        """The state after `token`; a separator starts afresh."""
        return self.START if token == self._codec.tokens.separator else (*state, token)

    def _locations(self, state: tuple[int, ...]) -> list[int]:
        index = self._codec._location_bin
        return [index[token] for token in state if token in index]

    def _range(self, low: int, high: int) -> frozenset[int]:
        return frozenset(self._codec.tokens.locations[low:high])


def vocabulary_names(categories: Sequence[Category]) -> tuple[str, ...]:
    """Every name of every category, in a fixed order."""
    return tuple(name for category in categories for name in category.names)

"""Combines a benchmark's names with what an adapter declares (tokens, coordinate space and format) into a codec."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from harness.errors import ConfigError, DataError
from harness.sequence.formats import Entry, Format, TokenFormat
from harness.sequence.spaces import LocationSpace, Space
from harness.sequence.tokens import Asks, Ids, Tokens
from harness.types import Box, Category, Example, Mention, Parsed

NOISE = "<noise>"
"""The name of a box that contains no object, see `Codec.extended`."""


class Codec:
    """Encodes objects into target tokens and reads emitted tokens back.

    `decode(encode(objects))` gives the same names and each edge within half a bin. Parsing never raises on model
    output: what cannot be read is counted. The default format is `name <loc>... ;`.

    noise_objects: number of entries that a model is trained to give in every answer; those beyond the objects are
    boxes without an object, with the name NOISE, which the tokens must have (see harness.sequence.noise_objects). 0:
    no noise.
    """

    boxed = True
    """Whether its sequences have boxes (a caption has none)."""
    experts: Ids = ()
    """The token of each expert of a mixture, which ends its prompts (harness.sequence.experts); none for others."""

    def __init__(
        self,
        categories: Sequence[Category],
        tokens: Tokens,
        space: Space,
        form: Format | None = None,
        noise_objects: int = 0,
    ) -> None:
        self.categories = tuple(categories)
        self.tokens = tokens
        self.space = space
        self.form: Format = TokenFormat(tokens) if form is None else form
        if isinstance(self.form, TokenFormat):
            _check_locations(tokens, space)
        self.category_of = {name: category.id for category in categories for name in category.names}
        self.names_of = {category.id: category.names for category in categories}
        self.name_ids = {name: tokens.encode_name(name) for name in self.category_of}
        self._name_of_ids = {ids: name for name, ids in self.name_ids.items()}
        if len(self._name_of_ids) != len(self.name_ids):
            raise DataError(
                "category names: two names have the same tokens; expected a tokenizer that tells them apart"
            )
        self.noise_objects = noise_objects
        self.noise = tokens.encode_name(NOISE) if noise_objects else None
        for name, ids in self.name_ids.items():
            self.form.check(name, ids)

    @cached_property
    def prefix_names(self) -> frozenset[str]:
        """Lists the names whose tokens begin another name's tokens. Only these need their terminator to be
        recognised."""
        beginnings = {ids[:cut] for ids in self._name_of_ids for cut in range(1, len(ids))}
        return frozenset(name for ids, name in self._name_of_ids.items() if ids in beginnings)

    def encode(self, objects: Sequence[tuple[str, Box]], width: int, height: int) -> Ids:
        """Returns the target tokens that list these objects, end token included."""
        entries = [(self.name_ids[name], self.space.quantise(box, width, height)) for name, box in objects]
        return (*self.form.encode(entries), self.tokens.end)

    def prompt(self, example: Example) -> Ids:
        """Returns the tokens before the example's answer: the open prompt, or one with the first name of each
        category that it asks about; of a mixture, with the token of the expert that is asked, by default the first.
        ConfigError where the tokens have no such prompt."""
        if self.experts:
            return (*self._question(example), self.experts[example.expert or 0])
        return self._question(example)

    def _question(self, example: Example) -> Ids:
        """Returns the prompt of a model that is no mixture."""
        if example.asked is None:
            return self.tokens.prompt
        if not isinstance(self.tokens, Asks):
            kind = type(self.tokens).__name__
            raise ConfigError(f"prompt: kind: categories: this model's {kind} have no ask(names); use kind: open")
        return self.tokens.ask([self.names_of[category][0] for category in example.asked])

    def decode(self, tokens: Sequence[int], width: int, height: int) -> Parsed:
        """Reads the mentions in order. Malformed: an entry that is not one name and the numbers of a box with area.

        Without an end token the sequence is truncated; its last entry then counts only if it is complete. An entry of
        noise is neither a mention nor malformed, whatever its box.
        """
        truncated = self.tokens.end not in tokens
        body = tuple(tokens) if truncated else tuple(tokens[: list(tokens).index(self.tokens.end)])
        entries = [entry for entry in self.form.entries(body, truncated) if not self._is_noise(entry)]
        read = [self._mention(entry, width, height) for entry in entries]
        mentions = tuple(mention for mention in read if mention is not None)
        excused = truncated and bool(read) and read[-1] is None
        lenient = sum(entry.lenient for entry, mention in zip(entries, read, strict=True) if entry and mention)
        return Parsed(mentions, len(read) - len(mentions) - excused, truncated, lenient)

    def extended(self, tokens: Sequence[int], boxes: Sequence[Box], width: int, height: int) -> Ids:
        """Appends an entry of noise for each of these boxes to a target sequence. Needs `noise_objects`."""
        assert self.noise is not None, "a codec without noise_objects has no name for noise"
        objects = [(entry.name, entry.numbers) for entry in self.form.entries(tuple(tokens[:-1]), False) if entry]
        noise = [(self.noise, self.space.quantise(box, width, height)) for box in boxes]
        return (*self.form.encode([*objects, *noise]), self.tokens.end)

    def counted(self, tokens: Sequence[int]) -> list[bool]:
        """Flags the tokens of a target sequence that have a loss: all except the box of a noise entry, which may be
        anywhere."""
        counts = [True] * len(tokens)
        for entry in self.form.entries(tuple(tokens[:-1]), False):
            if entry is not None and self._is_noise(entry):
                counts[entry.box_start : entry.box_end] = [False] * self.space.count
        return counts

    def kinds(self, tokens: Sequence[int]) -> list[int]:
        """Returns the index in KINDS of each token."""
        return self.form.kinds(tuple(tokens))

    def text(self, tokens: Sequence[int]) -> str:
        """Writes a sequence as a person reads it."""
        return self.form.text(tuple(tokens), self._name)

    def _name(self, ids: Ids) -> str:
        """Returns the exact name that has these tokens, or their text if no name has them."""
        return self._name_of_ids.get(ids) or self.tokens.decode_name(ids)

    def _is_noise(self, entry: Entry | None) -> bool:
        """Tells whether an entry is noise, with as many numbers as a box has."""
        return entry is not None and entry.name == self.noise and len(entry.numbers) == self.space.count

    def _mention(self, entry: Entry | None, width: int, height: int) -> Mention | None:
        if entry is None or len(entry.numbers) != self.space.count:
            return None
        box = self.space.restore(entry.numbers, width, height)
        if box is None:
            return None
        name = self._name(entry.name)
        category = self.category_of[name] if entry.name in self._name_of_ids else None
        return Mention(name, category, box, entry.name_start, entry.name_end, entry.box_start, entry.box_end)


def _check_locations(tokens: Tokens, space: Space) -> None:
    if not isinstance(space, LocationSpace):
        raise ConfigError("coordinates: location tokens need a space with a fixed number of bins, these are pixels")
    if len(tokens.locations) != space.bins:
        raise ConfigError(f"bins: {space.bins} asked for, the tokenizer has {len(tokens.locations)} locations")

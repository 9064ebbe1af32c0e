"""Defines how a model family writes its answer: whether name or box comes first, and the tokens around them.

`TokenFormat` is a list of location tokens and names, read token by token; text is read by harness.sequence.json_format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol

from harness.errors import ConfigError
from harness.sequence.tokens import Ids, Tokens

KINDS = ("name", "location", "separator", "end")
"""Kinds of target tokens; `Codec.kinds` gives indices into this. All structure (brackets, keys) is separator."""
NAME, LOCATION, SEPARATOR, END = range(4)


@dataclass(frozen=True, slots=True)
class Entry:
    """One object in a sequence: its name and numbers, and the token positions `[start, end)` of both.

    `name` are the tokens that this name has when it is encoded, whichever were emitted. lenient: it is not quite as the
    format has it, and what it means is plain all the same.
    """

    name: Ids
    numbers: tuple[int, ...]
    name_start: int
    name_end: int
    box_start: int
    box_end: int
    lenient: bool = False


class Format(Protocol):
    """What the codec requires of a format. A body is a sequence up to its end token."""

    @property
    def terminators(self) -> Ids:
        """Returns the tokens that may follow a complete name."""
        ...

    def encode(self, entries: Sequence[tuple[Ids, Sequence[int]]]) -> Ids:
        """Returns the body that lists these (tokens of the name, numbers of the box)."""
        ...

    def entries(self, body: Ids, truncated: bool) -> list[Entry | None]:
        """Lists the entries of a body, in order; None for one that cannot be read. Never raises."""
        ...

    def kinds(self, tokens: Ids) -> list[int]:
        """Returns the index in KINDS of each token of a whole sequence."""
        ...

    def text(self, tokens: Ids, name_of: Callable[[Ids], str]) -> str:
        """Writes a whole sequence as a person reads it."""
        ...

    def check(self, name: str, ids: Ids) -> None:
        """Raises ConfigError where this name could not be told from the tokens around it."""
        ...


def join_entries(entries: Sequence[Ids], opening: Ids, separator: Ids, closing: Ids) -> Ids:
    """Returns the tokens of all entries with what stands before, between and after them."""
    tokens = [*opening]
    for position, entry in enumerate(entries):
        tokens += [*(separator if position else ()), *entry]
    return (*tokens, *closing)


class TokenFormat:
    """`opening name middle loc* (separator name middle loc*)* closing`, or with the box before the name.

    All arguments are token ids. The first token of each must not occur in a name; the others may. Without a separator
    an entry ends with its last part. The body of an image without objects is empty. Some native formats:

        the default  sofa <loc3> <loc10> <loc20> <loc31> ; ...
        PaliGemma    <loc0003><loc0010><loc0020><loc0031> sofa ; ...     separator " ; ", name_first False
        Florence-2   sofa<loc_3><loc_10><loc_20><loc_31>...            no separator
        Kosmos-2     <phrase>sofa</phrase><object><patch_index_0044><patch_index_0863></object>...
                     opening "<phrase>", middle "</phrase><object>", separator "</object><phrase>", closing "</object>"

    again: what stands between two boxes of one name, where a family writes several after it; () where nothing does,
    every `numbers` locations being a box. Each box is an entry with that name. Targets have one box after each name.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        separator: Ids | None = None,
        name_first: bool = True,
        opening: Ids = (),
        middle: Ids = (),
        closing: Ids = (),
        again: Ids | None = None,
        numbers: int = 4,
    ) -> None:
        self.separator = (tokens.separator,) if separator is None else separator
        self.name_first, self.opening, self.middle, self.closing = name_first, opening, middle, closing
        self.again, self.numbers = again, numbers
        self.end = tokens.end
        self._tokens = tokens
        self._bins = {token: bin for bin, token in enumerate(tokens.locations)}
        self._literals = [literal for literal in (self.separator, opening, middle, closing, again) if literal]
        self._marks = {literal[0] for literal in self._literals}

    @property
    def terminators(self) -> Ids:
        if self.name_first:
            return self.middle[:1] or self._tokens.locations
        return (*(self.separator[:1] or self._tokens.locations), self.closing[0] if self.closing else self.end)

    def encode(self, entries: Sequence[tuple[Ids, Sequence[int]]]) -> Ids:
        if not entries:
            return ()
        return join_entries([self._written(*entry) for entry in entries], self.opening, self.separator, self.closing)

    def entries(self, body: Ids, truncated: bool) -> list[Entry | None]:
        if not body:
            return []
        start = len(self.opening)
        stop = self._stop(body, truncated)
        entries = [e for left, right in self._cuts(body, start, stop) for e in self._group(body, left, right)]
        if body[:start] != self.opening:
            entries[0] = None
        if not truncated and body[stop:] != self.closing:
            entries[-1] = None
        return entries

    def kinds(self, tokens: Ids) -> list[int]:
        kinds = [self._kind(token) for token in tokens]
        for literal in self._literals:
            size = len(literal)
            for start, token in enumerate(tokens):
                if token == literal[0] and tokens[start : start + size] == literal:
                    kinds[start : start + size] = [SEPARATOR] * size
        return kinds

    def text(self, tokens: Ids, name_of: Callable[[Ids], str]) -> str:
        words: list[str] = []
        name: list[int] = []
        for token, kind in zip(tokens, self.kinds(tokens), strict=True):
            if kind == NAME:
                name.append(token)
                continue
            if name:
                words.append(name_of(tuple(name)))
                name = []
            words.append(self._word(token, kind))
        return " ".join([*words, *([name_of(tuple(name))] if name else [])])

    def check(self, name: str, ids: Ids) -> None:
        if not ids or any(self._kind(token) != NAME for token in ids):
            raise ConfigError(
                f"tokenizer: expected tokens of {name!r} that begin no separator and are no location or end, got {ids}"
            )

    def location(self, token: int) -> int | None:
        """Returns the bin of a location token; None for any other token."""
        return self._bins.get(token)

    def begins(self, before: int, token: int) -> bool:
        """Tells whether, without a separator, `token` after `before` begins another entry."""
        old, new = before in self._bins, token in self._bins
        return (old and not new) if self.name_first else (new and not old)

    def _written(self, name: Ids, numbers: Sequence[int]) -> Ids:
        box = tuple(self._tokens.locations[number] for number in numbers)
        return (*name, *self.middle, *box) if self.name_first else (*box, *self.middle, *name)

    def _kind(self, token: int) -> int:
        if token in self._bins:
            return LOCATION
        return END if token == self.end else SEPARATOR if token in self._marks else NAME

    def _word(self, token: int, kind: int) -> str:
        if kind == LOCATION:
            return f"<loc{self._bins[token]}>"
        return "<end>" if kind == END else self._tokens.decode_name((token,))

    def _stop(self, body: Ids, truncated: bool) -> int:
        """Returns the end of the last entry: before the closing or, in a truncated body, before an incomplete closing
        or separator."""
        endings = [self.closing]
        if truncated:
            endings += [part[:cut] for part in (self.closing, self.separator) for cut in range(len(part))]
        return len(body) - max(len(part) for part in [(), *endings] if body[len(body) - len(part) :] == part)

    def _cuts(self, body: Ids, start: int, stop: int) -> list[tuple[int, int]]:
        """Finds start and end of every entry between these positions; at least one."""
        size = len(self.separator)
        if size:
            breaks = [(i, i + size) for i in range(start, stop - size + 1) if body[i : i + size] == self.separator]
        else:
            breaks = [(i, i) for i in range(start + 1, stop) if self.begins(body[i - 1], body[i])]
        bounds = [start, *chain.from_iterable(breaks), stop]
        return list(zip(bounds[::2], bounds[1::2], strict=True))

    def _group(self, body: Ids, left: int, right: int) -> list[Entry | None]:
        """The entries between two positions: several boxes after one name are one each."""
        boxes = self._boxes(body, left, right)
        first = self._entry(body, left, boxes[0][1])
        entries: list[Entry | None] = [first]
        for start, stop in boxes[1:]:
            numbers = [self._bins.get(token) for token in body[start:stop]]
            read = tuple(number for number in numbers if number is not None)
            whole = first is not None and len(read) == len(numbers)
            entries.append(replace(first, numbers=read, box_start=start, box_end=stop) if first and whole else None)
        return entries

    def _boxes(self, body: Ids, left: int, right: int) -> list[tuple[int, int]]:
        """Where the boxes of an entry stand; the first from wherever its name begins."""
        if self.again is None:
            return [(left, right)]
        if self.again:
            size = len(self.again)
            breaks = [(i, i + size) for i in range(left, right - size + 1) if body[i : i + size] == self.again]
        else:
            start = next((i for i in range(left, right) if body[i] in self._bins), right)
            breaks = [(i, i) for i in range(start + self.numbers, right, self.numbers)]
        bounds = [left, *chain.from_iterable(breaks), right]
        return list(zip(bounds[::2], bounds[1::2], strict=True))

    def _entry(self, body: Ids, left: int, right: int) -> Entry | None:
        """Reads the entry between two positions: exactly a name, the middle and locations, or in the other order."""
        size = len(self.middle)
        cut = next((i for i in range(left, right) if (body[i] in self._bins) == self.name_first), right)
        middle = max(left, cut - size) if self.name_first else cut
        name = (left, middle) if self.name_first else (middle + size, right)
        box = (cut, right) if self.name_first else (left, cut)
        ids, numbers = body[slice(*name)], [self._bins.get(token) for token in body[slice(*box)]]
        read = tuple(number for number in numbers if number is not None)
        if not ids or len(read) < len(numbers) or body[middle : middle + size] != self.middle:
            return None
        return Entry(ids, read, *name, *box) if all(self._kind(token) == NAME for token in ids) else None

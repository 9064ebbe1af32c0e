"""Defines which tokens may follow in an answer, so that it can be read."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import takewhile
from typing import Literal, NamedTuple

from harness.errors import ConfigError
from harness.sequence.codec import Codec
from harness.sequence.formats import TokenFormat
from harness.sequence.spaces import LocationSpace
from harness.sequence.tokens import Ids

Part = Ids | Literal["name", "box", "after"]
"""A part of an entry: these very tokens, a name, a box, or what follows an entry."""


class State(NamedTuple):
    """`read`: the tokens since the last separator; `first`: whether no entry is complete yet."""

    first: bool
    read: Ids


class Grammar:
    """The sequences that `Codec.decode` reads without malformed entries, one box after each name, as a state machine
    over tokens.

    The empty answer (the end token alone) is valid. Boxes must have area. Only formats of location tokens have
    a grammar: ConfigError for text.
    """

    START = State(True, ())

    def __init__(self, codec: Codec) -> None:
        if not isinstance(codec.form, TokenFormat) or not isinstance(codec.space, LocationSpace):
            raise ConfigError("sample.grammar: answers in JSON have no decoding grammar; set grammar: false")
        self._form, self._space, self._locations = codec.form, codec.space, codec.tokens.locations
        self._continues: dict[Ids, set[int]] = {}
        self._names = {*codec.name_ids.values(), *(() if codec.noise is None else [codec.noise])}
        for ids in self._names:
            for cut in range(len(ids)):
                self._continues.setdefault(ids[:cut], set()).add(ids[cut])
        self._in_names = {token for ids in self._names for token in ids}
        numbers: tuple[int, ...] = ()
        while len(numbers) < self._space.count:
            numbers = (*numbers, self._space.following(numbers)[0])
        self._some_name = min(self._names, key=len)
        self._some_box = tuple(self._locations[number] for number in numbers)

    def allowed(self, state: State) -> frozenset[int]:
        """Returns the tokens that may follow `state`."""
        following = self._following(self._parts(state.first), state.read)
        return frozenset({*following, self._form.end} if state == self.START else following)

    def advance(self, state: State, token: int) -> State:
        """Returns the state after an allowed `token`."""
        form, read = self._form, (*state.read, token)
        if form.separator:
            return State(False, ()) if read[-len(form.separator) :] == form.separator else State(state.first, read)
        begun = len(state.read) > (len(form.opening) if state.first else 0)
        return State(False, (token,)) if begun and form.begins(state.read[-1], token) else State(state.first, read)

    def simplify(self, state: State) -> tuple[State, Hashable]:
        """Returns a state with the same continuations, whatever its complete names and boxes are, and a key: equal
        keys allow the same tokens."""
        left = state.read
        told: list[int] = []  # the tokens so far, with one name and one box in place of complete ones
        for part in self._parts(state.first):
            if part == "name":
                size = sum(1 for _ in takewhile(self._in_names.__contains__, left))
                if size == len(left):  # it may go on
                    break
                whole = self._some_name
            elif part == "box":
                size = self._space.count
                if len(left) < size:
                    reduced = State(state.first, (*told, *left))
                    following = self._space.following(self._numbers(left))
                    return reduced, following if isinstance(following, range) else tuple(following)
                whole = self._some_box
            elif part == "after" or len(left) <= len(part):
                break
            else:
                size, whole = len(part), part
            told += whole
            left = left[size:]
        reduced = State(state.first, (*told, *left))
        return reduced, reduced

    def _parts(self, first: bool) -> tuple[Part, ...]:
        form = self._form
        entry: tuple[Part, ...] = ("name", form.middle, "box") if form.name_first else ("box", form.middle, "name")
        return (form.opening if first else (), *entry, "after")

    def _following(self, parts: tuple[Part, ...], read: Ids) -> set[int]:
        """Returns the tokens that may follow `read`, the beginning of something that has these parts."""
        part, rest = parts[0], parts[1:]
        if part == "after":
            return set(self._after(read))
        if part == "name":
            name = tuple(takewhile(self._in_names.__contains__, read))
            following = self._continues.get(name, set()) if name == read else set()
            return following | (self._following(rest, read[len(name) :]) if name in self._names else set())
        if part == "box":
            if len(read) < self._space.count:
                return {self._locations[n] for n in self._space.following(self._numbers(read))}
            return self._following(rest, read[self._space.count :])
        return {part[len(read)]} if len(read) < len(part) else self._following(rest, read[len(part) :])

    def _after(self, read: Ids) -> Iterator[int]:
        """Returns the tokens after a complete entry: the closing and the end, or a separator, or directly another
        entry."""
        for literal in ((*self._form.closing, self._form.end), self._form.separator):
            if len(literal) > len(read) and literal[: len(read)] == read:
                yield literal[len(read)]
        if not self._form.separator and not read:
            yield from self._following(self._parts(first=False), ())

    def _numbers(self, read: Ids) -> list[int]:
        return [bin for bin in map(self._form.location, read) if bin is not None]

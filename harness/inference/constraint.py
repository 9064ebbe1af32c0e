"""The grammar of a format, applied to many rows at once: which tokens may follow what each of them has emitted.

In: a codec, logits, and the tokens that rows choose. Out: logits without what may not follow.

A grammar becomes a table of its states on the device once, so that no token is waited for: what a box allows depends
on the numbers before, which are kept beside the state. In a space in which it depends on more than that the grammar is
walked on the host, and its masks are kept.

Shape legend: R rows   V vocabulary   S states   C children of a state   B bins   M masks that are known
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from harness.sequence import Codec, Grammar, State
from harness.sequence.spaces import LocationSpace

MANY = 32
"""A state with more children than this has a row of the whole vocabulary."""


class Masks(Protocol):
    """What the grammar of a codec allows some rows, which all begin at the start."""

    waits: bool
    """Whether the host must know each token that was chosen."""

    def apply(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Masks the logits [R, V] of the tokens that may not follow in these rows [R]."""
        ...

    def advance(self, rows: Tensor, tokens: Tensor) -> None:
        """Advances each of these rows [R] by an allowed token [R]."""
        ...


def make_masks(codec: Codec, rows: int, device: torch.device | str) -> Masks:
    """Returns masks for so many rows; ConfigError for a codec without a grammar."""
    table = _table_of(codec)
    return SteppedMasks(codec, rows) if table is None else TableMasks(table, rows, torch.device(device))


@lru_cache(maxsize=2)
def _table_of(codec: Codec) -> GrammarTable | None:
    """Returns the table of a codec's grammar, made once; None where its space needs another walk for every box."""
    grammar, space = Grammar(codec), codec.space
    assert isinstance(space, LocationSpace)
    boxes = _box_table(space)
    return None if boxes is None else GrammarTable(codec, grammar, boxes)


# ---- on the device ---------------------------------------------------------------------------------------------------


def _box_table(space: LocationSpace) -> Tensor | None:
    """Which numbers [1 + (count - 1) B, B] may follow none, a single one, and two or more of which the last but one is
    given; None where that does not say it."""
    bins = space.bins

    def allowed(numbers: Sequence[int]) -> set[int]:
        return set(space.following(numbers))

    sets = [allowed(())]
    some, most = min(sets[0]), max(sets[0])
    for count in range(1, space.count):
        for number in range(bins):
            if count == 1:
                sets.append(allowed((number,)))
                continue
            one, other = (allowed((*[before] * (count - 2), number, before)) for before in (some, most))
            if one != other:
                return None
            sets.append(one)
    table = torch.zeros(len(sets), bins, dtype=torch.bool)
    for row, numbers in enumerate(sets):
        table[row, sorted(numbers)] = True
    return table


class GrammarTable:
    """The states of a grammar, with their children; a location is one child, whatever its number.

    children, after [S, C]: tokens that may follow (V where there are fewer), and the state after each. large [S]: the
    row in `allowed`, `large_after` [L, V] of a state with many children, 0 for others. numbers [S]: of a box that is
    not complete; box_after [S]: the state after one more, -1 where none may follow.
    """

    def __init__(self, codec: Codec, grammar: Grammar, boxes: Tensor) -> None:
        self.boxes, self.locations = boxes, torch.tensor(codec.tokens.locations)
        self.size = codec.tokens.size
        self._count, self._is_location = codec.space.count, frozenset(codec.tokens.locations)
        self._some = self._some_box(codec)
        states = {Grammar.START: 0}
        edges: list[dict[int, int]] = []
        for state in (queue := [Grammar.START]):
            following: dict[int, int] = {}
            tokens = grammar.allowed(state)
            some_location = min(tokens & self._is_location, default=None)
            for token in sorted(tokens - self._is_location) + ([] if some_location is None else [some_location]):
                reached = state if token == codec.tokens.end else self._typical(grammar, grammar.advance(state, token))
                if reached not in states:
                    states[reached] = len(states)
                    queue.append(reached)
                following[token] = states[reached]
            edges.append(following)
        self.numbers = torch.tensor([self._open_numbers(state) for state in states])
        self.box_after = torch.tensor([self._box_edge(following) for following in edges])
        plain = [{t: s for t, s in following.items() if t not in self._is_location} for following in edges]
        self._lay_out(plain)

    def _lay_out(self, edges: Sequence[dict[int, int]]) -> None:
        few = [following if len(following) <= MANY else {} for following in edges]
        many = [following for following in edges if len(following) > MANY]
        width = max(1, *map(len, few))
        self.children = torch.full((len(edges), width), self.size)
        self.after = torch.zeros(len(edges), width, dtype=torch.long)
        for row, following in enumerate(few):
            self.children[row, : len(following)] = torch.tensor(list(following), dtype=torch.long)
            self.after[row, : len(following)] = torch.tensor(list(following.values()), dtype=torch.long)
        self.allowed = torch.zeros(1 + len(many), self.size, dtype=torch.bool)
        self.large_after = torch.zeros(1 + len(many), self.size, dtype=torch.long)
        for row, following in enumerate(many, start=1):
            self.allowed[row, list(following)] = True
            self.large_after[row, list(following)] = torch.tensor(list(following.values()))
        large = iter(range(1, 1 + len(many)))
        self.large = torch.tensor([next(large) if len(following) > MANY else 0 for following in edges])

    def _some_box(self, codec: Codec) -> list[int]:
        """The tokens of the numbers of some box."""
        assert isinstance(codec.space, LocationSpace)
        numbers: list[int] = []
        while len(numbers) < self._count:
            numbers.append(min(codec.space.following(numbers)))
        return [codec.tokens.locations[number] for number in numbers]

    def _typical(self, grammar: Grammar, state: State) -> State:
        """The same for all states that differ in names and boxes alone, complete ones and one that is not."""
        read = grammar.simplify(state)[0].read
        left = self._open_numbers(State(state.first, read))
        return State(state.first, (*read[: len(read) - left], *self._some[:left]))

    def _open_numbers(self, state: State) -> int:
        """How many numbers of a box that is not complete are at the end."""
        trailing = 0
        while trailing < len(state.read) and state.read[-1 - trailing] in self._is_location:
            trailing += 1
        return trailing % self._count

    def _box_edge(self, following: dict[int, int]) -> int:
        return next((state for token, state in following.items() if token in self._is_location), -1)


class TableMasks:
    """Masks from a table; nothing of them leaves the device."""

    waits = False

    def __init__(self, table: GrammarTable, rows: int, device: torch.device) -> None:
        self._size = table.size
        self._children, self._after = table.children.to(device), table.after.to(device)
        self._large, self._allowed = table.large.to(device), table.allowed.to(device)
        self._large_after, self._boxes = table.large_after.to(device), table.boxes.to(device)
        self._numbers, self._box_after = table.numbers.to(device), table.box_after.to(device)
        self._locations = table.locations.to(device)
        self._bins = torch.full((self._size,), -1, device=device)  # of each token; -1 for those of no location
        self._bins[self._locations] = torch.arange(len(self._locations), device=device)
        self._state = torch.zeros(rows, dtype=torch.long, device=device)
        self._last = torch.zeros(rows, 2, dtype=torch.long, device=device)  # the last number but one, and the last

    def apply(self, logits: Tensor, rows: Tensor) -> Tensor:
        state = self._state[rows]
        mask = logits.new_zeros(
            len(rows), logits.shape[1] + 1, dtype=torch.bool
        )  # one more, for children that are none
        children = self._children[state]
        mask.scatter_(1, children.where(children < self._size, logits.shape[1]), True)
        mask[:, : self._size] |= self._allowed[self._large[state]]
        numbers = self._boxes[self._box_row(state, self._last[rows])] & (self._box_after[state] >= 0)[:, None]
        mask[:, self._locations] |= numbers
        return logits.masked_fill(~mask[:, :-1], -torch.inf)

    def advance(self, rows: Tensor, tokens: Tensor) -> None:
        state, bins = self._state[rows], self._bins[tokens]
        is_child = self._children[state] == tokens[:, None]
        listed = self._after[state].gather(1, is_child.int().argmax(1, keepdim=True))[:, 0]
        large = self._large[state]
        reached = torch.where(large > 0, self._large_after[large, tokens], listed)
        self._state[rows] = torch.where(bins >= 0, self._box_after[state], reached)
        last = self._last[rows]
        self._last[rows] = torch.where((bins >= 0)[:, None], torch.stack([last[:, 1], bins], 1), last)

    def _box_row(self, state: Tensor, last: Tensor) -> Tensor:
        """The row of `boxes` for each state: see `_box_table`."""
        count = self._numbers[state]
        number = torch.where(count == 1, last[:, 1], last[:, 0])
        return torch.where(count == 0, 0, 1 + (count - 1) * len(self._locations) + number)


# ---- on the host -----------------------------------------------------------------------------------------------------


class SteppedMasks:
    """Masks of a grammar that is walked for every row and token; each is made when it is first needed."""

    waits = True

    def __init__(self, codec: Codec, rows: int) -> None:
        self._grammar = Grammar(codec)
        self._states = [Grammar.START] * rows
        self._keys: list[Hashable] = [Grammar.START] * rows
        self._table_rows: dict[Hashable, int] = {}
        self._table: Tensor | None = None  # [M, V]

    def apply(self, logits: Tensor, rows: Tensor) -> Tensor:
        places = rows.tolist()
        for row in places:
            if self._keys[row] not in self._table_rows:
                self._add(self._keys[row], self._grammar.allowed(self._states[row]), logits)
        assert self._table is not None
        chosen = torch.tensor([self._table_rows[self._keys[row]] for row in places], device=logits.device)
        return logits.masked_fill(~self._table[chosen], -torch.inf)

    def advance(self, rows: Tensor, tokens: Tensor) -> None:
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            state: State = self._grammar.advance(self._states[row], token)
            self._states[row], self._keys[row] = self._grammar.simplify(state)

    def _add(self, key: Hashable, allowed: frozenset[int], like: Tensor) -> None:
        """Adds a row to the table, which grows by half when it is full."""
        count = len(self._table_rows)
        if self._table is None or count == len(self._table):
            larger = torch.zeros(max(16, count + count // 2), like.shape[1], dtype=torch.bool, device=like.device)
            if self._table is not None:
                larger[:count] = self._table
            self._table = larger
        self._table[count, torch.tensor(sorted(allowed), device=like.device)] = True
        self._table_rows[key] = count

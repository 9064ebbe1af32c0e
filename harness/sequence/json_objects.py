"""Reads what a model says in JSON: strictly as JSON, then leniently where it is plain what was meant, never guessing.
In: a text. Out: what each object of it says, where that stands, and whether it took leniency to read it.

Strict is a list of objects `{"bbox_2d": [whole numbers], "label": "..."}`, in a code fence or not. Lenient is besides:
an object without a list, keys in another order, further keys, numbers with decimals, exponents or leading zeros, a
comma before a closing bracket, line breaks in a label, and words before or after a code fence.

A model may say anything: nesting, fields, sizes and digits are bounded, and the time is linear in the text's length,
because no text is looked at again but by an object that begins inside of one that could not be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

BOX, LABEL = "bbox_2d", "label"
WHITE = " \t\r\n"
"""JSON's white space; `str.strip`, `int` and regular expressions each have a longer list."""
MOST_FIELDS, MOST_DEPTH, MOST_VALUES, MOST_CHARACTERS = 16, 4, 64, 1000
"""Of one object: its fields, lists and objects within each other, values of a list, characters of a string."""
LARGEST = 999_999_999
"""Coordinate."""
FENCE = "```"

_SPACE = re.compile(rf"[{WHITE}]*+")
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,2})?(?![0-9.eE])")
_WHOLE = re.compile(r"0|[1-9][0-9]*+")
_WORD = re.compile(r"true|false|null")
_NOTHING = re.compile(rf"(?:{FENCE}(?:json)?)?\[\](?:{FENCE})?|")


@dataclass(frozen=True, slots=True)
class ReadObject:
    """One object of an answer. Spans are of characters: of the label between its quotes, of the numbers with commas."""

    label: str
    label_span: tuple[int, int]
    numbers: tuple[int, ...]
    box_span: tuple[int, int]
    lenient: bool


class _UnreadableError(Exception):
    """What stands here is no object with a label and a box."""


def read_objects(text: str, truncated: bool) -> list[ReadObject | None]:
    """Reads the objects of an answer in order; None for each that cannot be read, and for what begins no list.

    truncated: the text goes on beyond what is given; the last object then counts if it is complete. Never raises.
    """
    first = text.find("{")
    if first < 0:
        return [] if _NOTHING.fullmatch("".join(text.split())) else [None]
    head = text[:first]
    words, fence, rest = head.rpartition(FENCE)
    rest = rest.removeprefix("json") if fence else rest
    opened, closed = "[" in head, "]" in text[text.rfind("}") + 1 :]
    listed = opened or closed
    begins = rest.strip(WHITE) in ("", "[") and (opened or not closed)
    objects = list(_objects(text, first, listed, truncated))
    if objects[0] is not None and words.strip(WHITE):
        objects[0] = replace(objects[0], lenient=True)
    return objects if begins else [None, *objects]


def _objects(text: str, first: int, listed: bool, truncated: bool) -> Iterator[ReadObject | None]:
    """Yields one for each `{` that stands in no other object, from `first` on."""
    start = first
    while start >= 0:
        try:
            item, end = _object(text, start)
        except _UnreadableError:
            item, end = None, start + 1
        start = text.find("{", end)
        if item is not None:
            rest = text[end:] if start < 0 else text[end:start]
            item = _with_end(item, rest.strip(WHITE), listed, start < 0, truncated)
        yield item


def _with_end(item: ReadObject, rest: str, listed: bool, last: bool, truncated: bool) -> ReadObject | None:
    """Returns the object if what stands between it and the next one, or the end, may stand there; else None."""
    item = item if listed else replace(item, lenient=True)
    if not last:
        return item if rest == "," else None
    if truncated and not rest.strip(f"{WHITE},]`"):
        return item
    if listed:
        after = rest.removeprefix(",").lstrip(WHITE)
        if not after.startswith("]"):
            return None
        item = replace(item, lenient=True) if rest.startswith(",") else item
        rest = after[1:].lstrip(WHITE)
    if rest.startswith(FENCE):
        return replace(item, lenient=True) if rest != FENCE else item
    return None if rest else item


# ---- one object --------------------------------------------------------------------------------------------------


def _object(text: str, start: int) -> tuple[ReadObject, int]:
    """Reads the object that begins at `start`; returns it with the position after it. Raises _UnreadableError."""
    at, keys, lenient = _skip_space(text, start + 1), list[str](), False
    label, label_span, numbers, box_span = "", (0, 0), tuple[int, ...](), (0, 0)
    while True:
        (key, odd), at = _string(text, at)
        if key in keys or len(keys) == MOST_FIELDS:
            raise _UnreadableError
        keys.append(key)
        at = _skip_space(text, _expect(text, _skip_space(text, at), ":"))
        before = at
        if key == BOX:
            numbers, box_span, odd_value, at = _box(text, at)
        elif key == LABEL:
            (label, odd_value), at = _string(text, at)
            label_span = before + 1, at - 1
        else:
            odd_value, at = True, _skip_value(text, at, MOST_DEPTH)
        lenient |= odd or odd_value
        more, comma, at = _next(text, at, "}")
        lenient |= comma and not more
        if not more:
            break
    if not numbers or not label.strip():
        raise _UnreadableError
    return ReadObject(label, label_span, numbers, box_span, lenient or keys != [BOX, LABEL]), at


def _box(text: str, at: int) -> tuple[tuple[int, ...], tuple[int, int], bool, int]:
    """Reads a list of numbers, each rounded: numbers, their span, whether it took leniency, the position after."""
    at = _skip_space(text, _expect(text, at, "["))
    start, numbers, lenient = at, list[int](), False
    while True:
        match = _NUMBER.match(text, at)
        if match is None or len(numbers) == MOST_VALUES:
            raise _UnreadableError
        value = float(match[0])
        if not 0 <= value <= LARGEST:
            raise _UnreadableError
        numbers.append(round(value))
        lenient |= _WHOLE.fullmatch(match[0]) is None
        stop = match.end()
        more, comma, at = _next(text, stop, "]")
        if not more:
            return tuple(numbers), (start, stop), lenient or comma, at


def _next(text: str, at: int, closing: str) -> tuple[bool, bool, int]:
    """Reads what follows a value: whether another one does, whether there was a comma, and the position after."""
    at = _skip_space(text, at)
    comma = text.startswith(",", at)
    at = _skip_space(text, at + 1) if comma else at
    if text.startswith(closing, at):
        return False, comma, at + 1
    if not comma:
        raise _UnreadableError
    return True, True, at


def _string(text: str, at: int) -> tuple[tuple[str, bool], int]:
    """Reads a string, and whether it took leniency; returns both with the position after."""
    match = _STRING.match(text, at)
    if match is None or len(match[0]) > MOST_CHARACTERS:
        raise _UnreadableError
    for strict in (True, False):
        try:
            value = json.loads(match[0], strict=strict)
            value.encode()  # half of a pair of surrogates is no text
        except UnicodeEncodeError:
            break
        except ValueError:
            continue
        return (str(value), not strict), match.end()
    raise _UnreadableError


def _skip_value(text: str, at: int, depth: int) -> int:
    """Returns the position after any value, of lists and objects at most `depth` within each other."""
    opening = text[at : at + 1]
    if opening not in ("[", "{"):
        if opening == '"':
            return _string(text, at)[1]
        match = _NUMBER.match(text, at) or _WORD.match(text, at)
        if match is None:
            raise _UnreadableError
        return match.end()
    closing = "]" if opening == "[" else "}"
    at = _skip_space(text, at + 1)
    if text.startswith(closing, at):
        return at + 1
    for _ in range(MOST_VALUES if depth else 0):
        if closing == "}":
            at = _skip_space(text, _expect(text, _skip_space(text, _string(text, at)[1]), ":"))
        more, _, at = _next(text, _skip_value(text, at, depth - 1), closing)
        if not more:
            return at
    raise _UnreadableError


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _expect(text: str, at: int, sign: str) -> int:
    if not text.startswith(sign, at):
        raise _UnreadableError
    return at + 1

"""Answers garbled at random, in every format: each is read, and how long that takes grows with its length alone.

A mutation is a function of its family and seed, so that a failure can be made again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

from harness.sequence import Codec, CoordinateSpace, JsonFormat, NameVocabulary, TokenizerTokens, for_task
from harness.sequence.json_objects import read_objects
from harness.types import Parsed
from tests.sequence.formats.families import (
    CATEGORIES,
    HEIGHT,
    NAMES,
    TWO,
    WIDTH,
    florence,
    kosmos,
    paligemma,
    qwen,
    qwen3,
)

BINS = 65


def names_only() -> Codec:
    return Codec(CATEGORIES, NameVocabulary(NAMES, BINS), CoordinateSpace(BINS))


def with_noise() -> Codec:
    return Codec(CATEGORIES, NameVocabulary((*NAMES, "<noise>"), BINS), CoordinateSpace(BINS), noise_objects=4)


def captions_of_names() -> Codec:
    return for_task(names_only(), "caption")


def captions_and_boxes() -> Codec:
    return for_task(names_only(), "caption+boxes")


def captions_and_json() -> Codec:
    return for_task(qwen3(), "caption+boxes")


FAMILIES: dict[str, Callable[[], Codec]] = {
    family.__name__: family
    for family in (
        *(names_only, with_noise, paligemma, florence, kosmos, qwen, qwen3),
        *(captions_of_names, captions_and_boxes, captions_and_json),
    )
}
every_family = pytest.mark.parametrize("family", FAMILIES)

SIGNS = (
    *'[]{},:"\\`',
    *("```", '"label"', "\\ud800", ', "a": 1', "null"),
    *(" ", "\n", "\x1f", "\u2003", "-", ".", ".5", "e9", "9" * 12, "NaN"),
)
"""What JSON is made of, and what looks like it."""


def garbled(codec: Codec, rng: random.Random) -> tuple[int, ...]:
    """A good answer with one to four changes: a piece lost, doubled, moved or replaced by anything."""
    tokens = list(codec.encode([rng.choice(TWO) for _ in range(rng.randrange(4))], WIDTH, HEIGHT))
    for _ in range(rng.choice([1, 1, 2, 4])):
        a, b = sorted(rng.randrange(len(tokens) + 1) for _ in "ab")
        b = min(b, a + rng.choice([0, 1, 1, 2, 12]))
        piece = rng.choice(
            [
                [],
                tokens[a:b] * 2,
                tokens[a:b][::-1],
                [rng.randrange(codec.tokens.size)],
                [codec.tokens.end] * (rng.random() < 0.2),
                list(_written(codec, rng)),
            ]
        )
        tokens[a:b] = piece
    return tuple(tokens)


def _written(codec: Codec, rng: random.Random) -> tuple[int, ...]:
    """Signs of JSON where the format is text, else a location."""
    if isinstance(codec.form, JsonFormat) and isinstance(codec.tokens, TokenizerTokens):
        return codec.tokens.encode_text("".join(rng.choices(SIGNS, k=rng.choice([1, 1, 2, 5]))))
    return (rng.choice(codec.tokens.locations),) if codec.tokens.locations else ()


def wrong(codec: Codec, tokens: tuple[int, ...]) -> str:
    """What is wrong with how an answer is read; nothing where all is well."""
    try:
        parsed = codec.decode(tokens, WIDTH, HEIGHT)
        text, kinds = codec.text(tokens), codec.kinds(tokens)
        text.encode()
    except Exception as error:  # whatever it is: that is what is tested
        return f"{type(error).__name__}: {error}"
    good = len(kinds) == len(tokens) and parsed.malformed >= 0 and 0 <= parsed.lenient <= len(parsed.mentions)
    return "" if good and all(_mentions_are_good(parsed, len(tokens))) else str(parsed)


def _mentions_are_good(parsed: Parsed, length: int) -> Iterator[bool]:
    for mention in parsed.mentions:
        x0, y0, x1, y1 = mention.box.corners
        yield -1e-6 <= x0 < x1 <= WIDTH + 1e-6
        yield -1e-6 <= y0 < y1 <= HEIGHT + 1e-6
        yield 0 <= mention.name_start < mention.name_end <= length
        yield 0 <= mention.box_start <= mention.box_end <= length
        yield mention.name.isprintable() or bool(mention.name.strip())


def failures(family: str, seeds: range) -> dict[int, str]:
    """What went wrong, by seed."""
    codec = FAMILIES[family]()
    problems = {seed: wrong(codec, garbled(codec, random.Random(f"{family} {seed}"))) for seed in seeds}
    return {seed: problem for seed, problem in problems.items() if problem}


@every_family
def test_300_garbled_answers_are_read(family: str) -> None:
    assert failures(family, range(300)) == {}


@every_family
def test_they_are_of_every_kind(family: str) -> None:
    """Else the property would hold for want of trying."""
    codec = FAMILIES[family]()
    read = [codec.decode(garbled(codec, random.Random(seed)), WIDTH, HEIGHT) for seed in range(600)]
    assert len({(len(parsed.mentions), parsed.malformed, parsed.truncated) for parsed in read}) > 5
    assert any(parsed.lenient for parsed in read) == isinstance(codec.form, JsonFormat)


@pytest.mark.slow
@every_family
def test_100000_garbled_answers_are_read(family: str) -> None:
    assert failures(family, range(300, 100_300)) == {}


# ---- length ------------------------------------------------------------------------------------------------------

SCRAPS = (
    *("{", "[", '"', "\\", " ", ",", "`", "```", "```json", "1", "-", "}", "]", "\n\t "),
    *(
        '{"',
        '{"a',
        '{"a":',
        '{"a":{',
        '{"a":[',
        '{"a":[1,',
        '{ "',
        '{"\\"',
        '\\"{',
        '{"bbox_2d": [',
        '{"bbox_2d": [1, ',
    ),
    *(
        '{"label": "',
        '{"label": "a", ',
        '{"bbox_2d": [1, 2, 3, 4], "label": "x"}, ',
        '{"bbox_2d": [1, 2, 3, 4] ',
        "{} ",
    ),
    *('[{"bbox_2d": [1', '{"bbox_2d": [1, 2, 3, 4], "label": "x", "a": 1, ', '"a": [[[[', "[]", "{}", "```[", "] ```"),
)
"""What, said over and over, makes a careless reader look at the same text again and again."""
SHORT, LONG, MOST = 10_000, 80_000, 3.0


def slowest(read: Callable[[int], object]) -> float:
    """Seconds for LONG over seconds for SHORT, by what is proportional; the least of three tries."""
    return min(_seconds(read, LONG) / max(_seconds(read, SHORT), 1e-3) for _ in range(3)) / (LONG / SHORT)


def _seconds(read: Callable[[int], object], length: int) -> float:
    start = time.process_time()
    read(length)
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize("opening", ["", "[", '[{"bbox_2d": [1', '[{"label": "'])
def test_the_time_to_read_json_is_linear_in_its_length(opening: str) -> None:
    """A quadratic reader takes 8 times what is proportional; more than 3 times is too much."""
    for scrap in SCRAPS:
        texts = {length: opening + scrap * (length // len(scrap)) for length in (SHORT, LONG)}
        ratio = slowest(lambda length, texts=texts: read_objects(texts[length], truncated=False))  # type: ignore[misc]
        assert ratio < MOST, scrap


@pytest.mark.slow
@every_family
def test_the_time_to_read_an_answer_is_linear_in_its_length(family: str) -> None:
    codec = FAMILIES[family]()
    for seed in range(12):
        rng = random.Random(seed)
        piece = garbled(codec, rng)[: rng.choice([1, 2, 5, 40])] or (0,)
        piece = tuple(token for token in piece if token != codec.tokens.end) or (0,)
        answers = {length: piece * (length // 10 // len(piece)) for length in (SHORT, LONG)}
        ratio = slowest(lambda length, answers=answers: codec.decode(answers[length], WIDTH, HEIGHT))  # type: ignore[misc]
        assert ratio < MOST, (seed, piece)

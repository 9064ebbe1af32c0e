"""Checks of the codec that an adapter declares: targets, masks, names, boxes, parsing and grammar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harness import registry
from harness.conformance.subject import MAX_TOKENS, ContractError, NotApplicableError, Subject, require
from harness.errors import ConfigError
from harness.inference.padding import target_batch
from harness.sequence import Codec, Grammar
from harness.types import IGNORED_LABEL, Box, Category

SIZES = ((32, 32), (33, 977), (640, 480), (3000, 4000), (4000, 3000))
"""Width and height of pictures."""
TOGETHER = 4
"""Objects of one sequence in the round trip."""


def mask(subject: Subject) -> None:
    """In a padded batch the loss covers the target tokens, each after the one before it, and nothing else."""
    codec = subject.codec
    require(bool(codec.tokens.prompt), "tokens.prompt: expected a token for the first target to follow, got none")
    targets = [subject.target(example) for example in subject.short_and_long]
    batch = target_batch(targets, codec)
    for row, target in enumerate(targets):
        positions = (batch.labels[row] != IGNORED_LABEL).nonzero()[:, 0]
        labels, before = batch.labels[row, positions].tolist(), batch.inputs[row, positions].tolist()
        require(labels == list(target), f"labels: expected the target {list(target)}, got {labels}")
        expected = [codec.tokens.prompt[-1], *target[:-1]]
        require(before == expected, f"inputs: expected {expected} before the labels, got {before}")
        require(target[-1] == codec.tokens.end, f"target: expected the end token {codec.tokens.end} last")
        inside = target[:-1].count(codec.tokens.end)
        require(inside == 0, f"target: expected the end token {codec.tokens.end} once, it also stands inside")
        outside = [token for token in (*target, *codec.tokens.prompt) if not 0 <= token < codec.tokens.size]
        require(not outside, f"tokens: expected ids below {codec.tokens.size} (tokens.size), got {outside}")


def round_trip(subject: Subject) -> None:
    """decode(encode(objects)) gives every LVIS name with its category and every edge within half a bin."""
    codec = subject.fresh(registry.lvis_categories()).codec
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        for objects in _groups(codec.categories, codec, width, height, rng):
            _come_back(codec, objects, width, height)


def _groups(
    categories: Sequence[Category], codec: Codec, width: int, height: int, rng: np.random.Generator
) -> Iterator[list[tuple[str, Box]]]:
    names = [name for category in categories for name in category.names]
    for start in range(0, len(names), TOGETHER):
        yield [(name, _box(codec, width, height, rng)) for name in names[start : start + TOGETHER]]


def _box(codec: Codec, width: int, height: int, rng: np.random.Generator) -> Box:
    """Draws a box anywhere in the picture, at least two bins wide and high, so that it has an area after rounding."""
    edges = []
    for side, step in zip((width, height), codec.space.steps(width, height), strict=True):
        low = rng.uniform(0, side - 2 * step)
        edges.append((low, rng.uniform(low + 2 * step, side)))
    (x0, x1), (y0, y1) = edges
    return Box(x0, y0, x1 - x0, y1 - y0)


def _come_back(codec: Codec, objects: Sequence[tuple[str, Box]], width: int, height: int) -> None:
    tokens = codec.encode(objects, width, height)
    parsed = codec.decode(tokens, width, height)
    sent = [(name, codec.category_of[name]) for name, _ in objects]
    got = [(mention.name, mention.category_id) for mention in parsed.mentions]
    where = f"in a picture of {width} x {height} pixels"
    complaint = f", {parsed.malformed} malformed{', truncated' * parsed.truncated}"
    require(
        got == sent and not parsed.malformed and not parsed.truncated,
        f"decode(encode(...)) {where}: expected {sent}, got {got}{complaint}; read as: {codec.text(tokens)}",
    )
    steps = codec.space.steps(width, height)
    for (name, box), mention in zip(objects, parsed.mentions, strict=True):
        for step, before, after in zip(steps * 2, box.corners, mention.box.corners, strict=True):
            require(
                abs(before - after) <= step / 2 * (1 + 1e-6),
                f"box of {name} {where}: expected each edge within half a bin ({step / 2:.3g} pixels), got "
                f"{mention.box.corners} for {box.corners}",
            )


def parsing(subject: Subject) -> None:
    """decode and text never raise, whatever tokens they are given."""
    codec, rng = subject.codec, np.random.default_rng(0)
    rubbish = [tuple(rng.integers(0, codec.tokens.size, length).tolist()) for length in (*range(30), *range(30))]
    rubbish += [_damaged(subject.target(example), rng) for example in subject.examples for _ in range(10)]
    for tokens in rubbish:
        try:
            codec.decode(tokens, 64, 64)
            codec.text(tokens)
        except Exception as error:
            raise ContractError(
                f"codec: expected what cannot be read to be counted as malformed, got {type(error).__name__}: {error} "
                f"for the tokens {tokens}; decode_name must be readable for ids that are no known name"
            ) from error


def _damaged(tokens: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """Damages a sequence: one token is lost, and another one occurs twice."""
    lost, twice = rng.integers(len(tokens)), rng.integers(len(tokens))
    return tuple(np.delete(np.repeat(tokens, [1 + (index == twice) for index in range(len(tokens))]), lost).tolist())


def grammar(subject: Subject) -> None:
    """The grammar admits every target, token by token, and what is sampled with it can all be read."""
    codec = subject.codec
    try:
        walk = Grammar(codec)
    except ConfigError as error:
        raise NotApplicableError(str(error)) from None
    for example in subject.examples:
        _admitted(codec, walk, subject.target(example))
    few = subject.few
    answers = subject.predictor.generate(few, [0.0, 1.0, 1.0, 1.0], 0, MAX_TOKENS, grammar=True)
    for example, samples_of_image in zip(few, answers, strict=True):
        for sample in samples_of_image:
            parsed = codec.decode(sample.tokens, example.width, example.height)
            unknown = [mention.name for mention in parsed.mentions if mention.category_id is None]
            require(
                not parsed.malformed and not unknown,
                f"generate(grammar=True): expected entries that can be read, got {parsed.malformed} malformed, unknown "
                f"names {unknown} in: {codec.text(sample.tokens)}; pass `grammar` on to "
                "harness.inference.decoding.sample",
            )


def _admitted(codec: Codec, walk: Grammar, tokens: Sequence[int]) -> None:
    state = Grammar.START
    for position, token in enumerate(tokens):
        require(
            token in walk.allowed(state),
            f"grammar: expected token {position} of a target to be admitted, got a refusal: {codec.text(tokens)}",
        )
        state = walk.advance(state, token)

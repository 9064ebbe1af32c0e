"""Nothing that a family may answer is misread, whole, cut off, damaged or made up."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.sequence import (
    TokenizerTokens,
)
from harness.types import Box
from tests.sequence.formats.families import FAMILIES, HEIGHT, NAMES, TWO, WIDTH, every_family
from tests.sequence.formats.readings import GOLDENS

# ---- what is read ----------------------------------------------------------------------------------------------


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[tuple[str, Box]], int, int]:
    """Objects with real-valued boxes in an image of 32 x 32 to 4000 x 3000 pixels."""
    width, height = draw(st.integers(32, 4000)), draw(st.integers(32, 3000))
    objects = []
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=4)):
        x0, x1 = sorted(draw(st.tuples(st.floats(0, width), st.floats(0, width))))
        y0, y1 = sorted(draw(st.tuples(st.floats(0, height), st.floats(0, height))))
        objects.append((name, Box(x0, y0, x1 - x0, y1 - y0)))
    return objects, width, height


@every_family
@settings(max_examples=60)
@given(scene=scenes())
def test_names_come_back_and_edges_within_half_a_step(
    family: str, scene: tuple[list[tuple[str, Box]], int, int]
) -> None:
    objects, width, height = scene
    codec = FAMILIES[family]()
    steps = codec.space.steps(width, height)
    wide = [(n, b) for n, b in objects if b.w > 2 * steps[0] and b.h > 2 * steps[1]]  # the rest may lose its area
    parsed = codec.decode(codec.encode(wide, width, height), width, height)
    assert [mention.name for mention in parsed.mentions] == [name for name, _ in wide]
    assert (parsed.malformed, parsed.truncated) == (0, False)
    for mention, (_, box) in zip(parsed.mentions, wide, strict=True):
        for step, before, after in zip(steps * 2, box.corners, mention.box.corners, strict=True):
            assert abs(before - after) <= step / 2 * (1 + 1e-6)
    read = len(codec.decode(codec.encode(objects, width, height), width, height).mentions)
    assert len(wide) <= read <= len(objects)


@every_family
def test_a_truncated_answer_is_read_as_far_as_it_goes(family: str) -> None:
    """Cut anywhere: both names are read from where they are complete, and what is cut off is no complaint."""
    codec = FAMILIES[family]()
    tokens = codec.encode(TWO, WIDTH, HEIGHT)
    counts = []
    for cut in range(len(tokens)):
        parsed = codec.decode(tokens[:cut], WIDTH, HEIGHT)
        assert (parsed.malformed, parsed.truncated) == (0, True), codec.text(tokens[:cut])
        assert all(mention.category_id is None or mention.name in NAMES for mention in parsed.mentions)
        counts.append(len(parsed.mentions))
    assert counts == sorted(counts)
    assert counts[-1] == 2
    assert len(codec.kinds(tokens[:-5])) == len(tokens) - 5


@every_family
@settings(max_examples=60)
@given(source=st.randoms(use_true_random=False))
def test_damage_is_counted_and_never_raises(family: str, source: random.Random) -> None:
    """A token lost, doubled or swapped for another: what is read and what is malformed is never nothing."""
    codec = FAMILIES[family]()
    tokens = list(codec.encode(TWO, WIDTH, HEIGHT))
    for _ in range(source.randint(1, 3)):
        place = source.randrange(len(tokens) - 1)
        tokens[place : place + 1] = source.choice([[], tokens[place : place + 1] * 2, [source.choice(tokens[:-1])]])
    parsed = codec.decode(tokens, WIDTH, HEIGHT)
    assert len(parsed.mentions) + parsed.malformed >= 1
    codec.text(tokens)
    assert len(codec.kinds(tokens)) == len(tokens)


@every_family
@settings(max_examples=60)
@given(data=st.data())
def test_rubbish_never_raises(family: str, data: st.DataObject) -> None:
    codec = FAMILIES[family]()
    tokens = data.draw(st.lists(st.integers(0, codec.tokens.size - 1), max_size=40))
    codec.decode(tokens, WIDTH, HEIGHT)
    codec.text(tokens)
    assert len(codec.kinds(tokens)) == len(tokens)


# ---- the other side: a family that has not this format ------------------------------------------------------------


@pytest.mark.parametrize(("family", "text", "names", "malformed"), GOLDENS)
def test_reading_by_hand(family: str, text: str, names: list[str], malformed: int) -> None:
    codec = FAMILIES[family]()
    assert isinstance(codec.tokens, TokenizerTokens)
    parsed = codec.decode((*codec.tokens.encode_text(text), codec.tokens.end), WIDTH, HEIGHT)
    assert [mention.name for mention in parsed.mentions] == names
    assert (parsed.malformed, parsed.truncated) == (malformed, False)

"""Boxes without area in a model's coordinates are no targets, wherever targets are made, and are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.sequence import Codec, CoordinateSpace, NameVocabulary, for_task, vocabulary_names
from harness.sequence.targets import members, target, writable
from harness.training.finetuning import unwritable_objects
from harness.types import Box, Category, Example, Instance

CATEGORIES = [Category(1, ("sofa", "couch"), None), Category(2, ("cup",), None)]
# 11 bins on 100 pixels: edges at 0, 10, ..., 100. Between 42 and 44 there is none, so both are written as 40; 44 and 46
# are written as 40 and 50.
GOOD, NARROW, ACROSS = Box(10, 10, 40, 40), Box(42, 10, 2, 40), Box(44, 10, 2, 40)
FLAT, NOTHING = Box(10, 20, 30, 0), Box(0, 0, 0, 0)


@pytest.fixture(name="codec")
def eleven_bins() -> Codec:
    return Codec(CATEGORIES, NameVocabulary(vocabulary_names(CATEGORIES), 11), CoordinateSpace(11))


def example(*boxes: Box) -> Example:
    instances = (Instance(k, 1 + k % 2, box) for k, box in enumerate(boxes))
    return Example(7, Path("x.png"), 100, 100, tuple(instances))


def test_what_has_no_area_is_left_out(codec: Codec) -> None:
    whole = example(GOOD, NARROW, ACROSS, FLAT, NOTHING)
    assert [instance.box for instance in writable(whole, codec).instances] == [GOOD, ACROSS]
    good = example(GOOD, ACROSS)
    assert writable(good, codec) is good


@pytest.mark.parametrize("targets", ["canonical", "random", "all(3)"])
def test_every_target_is_read_again_without_a_complaint(codec: Codec, targets: str) -> None:
    """Two objects of 2 names and 1, in two orders: 4 members, however many objects cannot be written."""
    image = example(NOTHING, GOOD, NARROW, FLAT, ACROSS)
    answers = members(image, codec, targets, seed=0, epoch=0, count=8)
    for tokens in answers:
        parsed = codec.decode(tokens, 100, 100)
        assert (len(parsed.mentions), parsed.malformed) == (2, 0)
    assert len(set(answers)) == (1 if targets == "canonical" else 4)


def test_nothing_else_changes(codec: Codec) -> None:
    """Order and names are drawn as for the objects that are left."""
    left, whole = example(GOOD), example(GOOD, NOTHING)
    for seed in range(5):
        one, other = (target(image, codec, "random", np.random.default_rng(seed)) for image in (left, whole))
        assert one == other


def test_captions_without_boxes_mention_all(codec: Codec) -> None:
    image = example(GOOD, NOTHING)
    assert writable(image, for_task(codec, "caption")) is image
    assert len(writable(image, for_task(codec, "caption+boxes")).instances) == 1


def test_they_are_counted(codec: Codec) -> None:
    images = [example(GOOD), example(FLAT, NOTHING), example(GOOD, NARROW)]
    assert unwritable_objects(images, codec) == {"images": 2, "objects": 3}
    assert unwritable_objects(images[:1], codec) is None

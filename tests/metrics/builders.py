"""Short ways to write the values that these tests need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from harness.metrics.samples.diversity import CategoryTable, ImageTable, category_table, image_table
from harness.metrics.samples.matching import Verification, verify
from harness.metrics.samples.mentions import Answers, Truth, answers_of, truth_of
from harness.types import Box, Category, Example, Instance, Mention, Parsed

XYWH = tuple[float, float, float, float]
Objects = Sequence[tuple[int, XYWH]]


def example(
    objects: Objects,
    image_id: int = 1,
    negative: Iterable[int] = (),
    not_exhaustive: Iterable[int] = (),
) -> Example:
    """An image whose instances get the ids 1, 2, ... in order of `objects` (category id, box)."""
    instances = tuple(Instance(index, c, Box(*xywh)) for index, (c, xywh) in enumerate(objects, start=1))
    return Example(image_id, Path("image.png"), 64, 64, instances, frozenset(negative), frozenset(not_exhaustive))


def mention(category_id: int | None, xywh: XYWH, name: str = "name") -> Mention:
    return Mention(name, category_id, Box(*xywh))


def parsed(mentions: Sequence[Mention], malformed: int = 0, truncated: bool = False, lenient: int = 0) -> Parsed:
    return Parsed(tuple(mentions), malformed, truncated, lenient)


def columns(
    images: Sequence[Example], samples: Sequence[Sequence[Parsed]], categories: Sequence[Category]
) -> tuple[Truth, Answers, Verification]:
    """What figures are computed from; `samples`: K of each image."""
    truth, answers = truth_of(images, categories), answers_of(samples, categories)
    return truth, answers, verify(truth, answers.mentions)


def tables(
    images: Sequence[Example], samples: Sequence[Sequence[Parsed]], categories: Sequence[Category]
) -> tuple[CategoryTable, ImageTable]:
    parts = columns(images, samples, categories)
    names = np.array([len(category.names) for category in categories], dtype=np.int64)
    return category_table(*parts, names), image_table(*parts)


# ---- small random cases ---------------------------------------------------------------------------------------------

CATEGORIES = (
    Category(5, ("sofa", "couch"), "f"),
    Category(7, ("bed",), "c"),
    Category(8, ("cup", "mug", "glass"), "r"),
)
"""Category 8 is never annotated in a random case, but mentioned."""

# A coarse grid makes shared, equal and threshold-exact overlaps common.
BOXES = st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(1, 4)] * 2)
OBJECTS = st.lists(st.tuples(st.sampled_from([5, 7]), BOXES), max_size=4)
SAID = st.one_of(
    st.builds(mention, st.just(5), BOXES, st.sampled_from(["sofa", "couch"])),
    st.builds(mention, st.just(7), BOXES, st.just("bed")),
    st.builds(mention, st.just(8), BOXES, st.sampled_from(["cup", "mug"])),
    st.builds(mention, st.none(), BOXES, st.just("thing")),
)
SAMPLES = st.builds(parsed, st.lists(SAID, max_size=4), st.integers(0, 2), st.booleans())


@st.composite
def cases(draw: st.DrawFn, max_images: int = 3, max_samples: int = 4) -> tuple[list[Example], list[list[Parsed]]]:
    """Images with 0 to 4 instances of categories 5 and 7, and K samples of each."""
    count, k = draw(st.integers(1, max_images)), draw(st.integers(1, max_samples))
    federated = st.sets(st.sampled_from([5, 7, 8]))
    images = [example(draw(OBJECTS), image_id, draw(federated), draw(federated)) for image_id in range(count, 0, -1)]
    return images, [[draw(SAMPLES) for _ in range(k)] for _ in range(count)]

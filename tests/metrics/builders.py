"""Short ways to write the values that these tests need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.metrics.matching import MatchedMention, match_sample
from harness.types import Box, Example, Instance, Mention, Parsed

XYWH = tuple[float, float, float, float]


def example(
    objects: Sequence[tuple[int, XYWH]],
    image_id: int = 1,
    negative: Iterable[int] = (),
    not_exhaustive: Iterable[int] = (),
) -> Example:
    """An image whose instances get the ids 1, 2, ... in order of `objects` (category id, box)."""
    instances = tuple(Instance(index, c, Box(*xywh)) for index, (c, xywh) in enumerate(objects, start=1))
    return Example(image_id, Path("image.png"), 64, 64, instances, frozenset(negative), frozenset(not_exhaustive))


def mention(category_id: int | None, xywh: XYWH, name: str = "name") -> Mention:
    return Mention(name, category_id, Box(*xywh))


def matched_samples(
    image: Example, samples: Sequence[Sequence[Mention]]
) -> list[tuple[Sequence[Mention], Sequence[MatchedMention]]]:
    return [(mentions, match_sample(image, mentions)) for mentions in samples]


def parsed_samples(
    image: Example, samples: Sequence[Sequence[Mention]]
) -> list[tuple[Parsed, Sequence[MatchedMention]]]:
    return [
        (Parsed(tuple(mentions), malformed=0, truncated=False), match_sample(image, mentions)) for mentions in samples
    ]

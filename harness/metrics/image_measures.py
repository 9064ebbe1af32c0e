"""Measures that other packages bring: the value of each image, as a function of ground truth and of what was answered.

A figure is the mean over the images that define it, so that intervals and paired differences follow from weights of
images, as for the measures of detmodes (harness.metrics.samples.aggregate). A package brings one by the entry-point
group `detmodes.measures`, and a suite asks for it by name (`measures`).

Shape legend: I images, K samples per image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from harness.errors import unknown
from harness.extensions import Extended, foreign_points
from harness.metrics.catalogue import FURTHER, GAIN, MEASURES
from harness.metrics.measure import HIGHER, LOWER, NEITHER, Measure
from harness.metrics.recorded import OFFICIAL
from harness.metrics.samples.matching import Verification
from harness.metrics.samples.mentions import Answers, Floats, Truth

LARGEST = 2**53
"""Largest value: sums of larger ones are not exact, or not finite."""


@dataclass(frozen=True, slots=True)
class ImageMeasure:
    """A measure as another package defines it.

    function     [I] of ground truth, answers and their verification; nan for an image that leaves it undefined
    meaning      a sentence or two for those who read the tables
    direction    HIGHER or LOWER is better; NEITHER where that depends
    heading      of its column in a table; by default its name
    of           what it is asked about: the K samples, or the greedy answer alone (K = 1)
    needs_boxes  whether it is undefined where the task has no boxes
    """

    function: Callable[[Truth, Answers, Verification], Floats]
    meaning: str
    direction: int = NEITHER
    heading: str = ""
    of: Literal["samples", "greedy"] = "samples"
    needs_boxes: bool = False

    def described(self, name: str) -> Measure:
        """Returns it as the catalogue describes measures."""
        heading = self.heading or name.replace("_", " ")
        return Measure(name, heading, self.direction, FURTHER, self.meaning, needs_boxes=self.needs_boxes)


def _is_one(part: Any) -> bool:
    return (
        isinstance(part, ImageMeasure)
        and callable(part.function)
        and part.direction in (HIGHER, LOWER, NEITHER)
        and part.of in ("samples", "greedy")
    )


_OF_DETMODES: dict[str, Measure | ImageMeasure] = {measure.name: measure for measure in (*MEASURES, *OFFICIAL)}
_OF_DETMODES |= {f"{name}{GAIN}": measure for name, measure in _OF_DETMODES.items()}
_OF_DETMODES |= {measure.source: measure for measure in MEASURES if measure.source}
IMAGE_MEASURES = Extended("measure", _OF_DETMODES, _is_one)
"""The measures by name. Those of detmodes take their names (and those with `_gain`), and are no ImageMeasure."""


def measure_problems(name: str) -> list[str]:
    """Lists what is wrong with the name of a measure of another package, where a suite or a command asks for it."""
    if name not in IMAGE_MEASURES:
        installed = [point.name for point in foreign_points("measure")]
        nobody = f"measure {name}: no package that is installed here brings it (entry points detmodes.measures)"
        return [unknown("measure", name, installed) if installed else nobody]
    if problems := IMAGE_MEASURES.problems(name):
        return problems
    if not isinstance(IMAGE_MEASURES[name], ImageMeasure):
        return [f"measure {name}: is one of detmodes itself, which every cell has: leave it out"]
    return [] if name.isidentifier() else [f"measure {name}: expected a name such as my_measure"]


def described_measures(names: Sequence[str]) -> dict[str, Measure]:
    """Describes the measures of these names, without those that have problems."""
    parts = {name: IMAGE_MEASURES[name] for name in names if not measure_problems(name)}
    return {name: part.described(name) for name, part in parts.items() if isinstance(part, ImageMeasure)}


class Judged(NamedTuple):
    """Answers and what they verify."""

    answers: Answers
    verification: Verification


def image_columns(
    names: Sequence[str], truth: Truth, samples: Judged, greedy: Judged | None, boxed: bool = True
) -> dict[str, Floats]:
    """Computes measures for each image, by name, each [I]; nan where undefined, without a greedy answer that one is of,
    and without the boxes that one needs.

    Raises:
        ConfigError: where another package's function fails, or gives anything else than that many numbers.
    """
    columns = {}
    for name in names:
        measure = IMAGE_MEASURES[name]
        assert isinstance(measure, ImageMeasure)
        judged = samples if measure.of == "samples" else greedy
        if judged is None or (measure.needs_boxes and not boxed):
            columns[name] = np.full(len(truth.image_ids), np.nan)
            continue
        with IMAGE_MEASURES.blaming(name, "computing it"):
            columns[name] = _checked(measure.function(truth, *judged), len(truth.image_ids))
    return columns


def _checked(given: Any, images: int) -> Floats:
    values = np.asarray(given, dtype=np.float64)
    if values.shape != (images,):
        raise ValueError(f"expected one number for each image, [{images}]; got {list(values.shape)}")
    wrong = ~np.isnan(values) & ~(np.abs(values) <= LARGEST)
    if wrong.any():
        raise ValueError(f"expected finite numbers, or nan where undefined; got {values[wrong][0]:g}")
    return values


def further_measures(described: Mapping[str, Measure], names: Sequence[str]) -> dict[str, Measure]:
    """Returns descriptions of all names, in order; of one that nothing is known of, its name alone."""
    return {name: described.get(name) or Measure(name, name.replace("_", " "), NEITHER, FURTHER, "") for name in names}

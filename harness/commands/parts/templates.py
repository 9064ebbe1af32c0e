"""The skeletons of parts, as texts: see harness.commands.parts.new. (An adapter has a module of its own.)"""

from __future__ import annotations

OBJECTIVE = '''"""The objective ${name}. Check it with: detmodes check objective ${name}"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.objectives import ObjectiveSpec
from harness.settings import at_least

if TYPE_CHECKING:
    from harness.objectives.token import PerToken, ScoredPositions


def loss(at: ScoredPositions, *, weight: float) -> PerToken:
    # In nats, of every one of N target positions: at.nll [N] is -log p_y, at.log_p [N, V] the log-probabilities of the
    # vocabulary, both with gradient. Which positions count, their weights and the sums are the harness's.
    from harness.objectives.token import PerToken  # here, not above: a suite is read without torch

    raise NotImplementedError("loss: return PerToken({term: what each position contributes [N]}, {term: its weight})")


OBJECTIVE = ObjectiveSpec(
    level="token",
    equation="-log p_y + weight * (what it adds); sg(x) is an x without gradient",
    source="who published it",
    settings={"weight": at_least(0, default=1.0)},  # each is a keyword argument of the function (see harness.settings)
    function=loss,
)
'''

REWARD = '''"""The reward ${name}. Check it with: detmodes check reward ${name}"""

from __future__ import annotations

from harness.metrics.samples.matching import Verification
from harness.metrics.samples.mentions import Answers, Floats, Truth
from harness.metrics.samples.reward import Reward


def worth(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    # Of K samples of each of I images: answers.mentions has a row for each mention (image, sample, category, box), and
    # verification says of each which instance it verifies (row of truth, or -1) and at which IoU.
    raise NotImplementedError("worth: return [I, K] numbers from 0 (worthless) to 1 (complete and right)")


REWARD = Reward(worth, equation="in one line", source="who published it")
'''

MEASURE = '''"""The measure ${name}. Check it with: detmodes check measure ${name}"""

from __future__ import annotations

from harness.metrics.image_measures import ImageMeasure
from harness.metrics.measure import HIGHER
from harness.metrics.samples.matching import Verification
from harness.metrics.samples.mentions import Answers, Floats, Truth


def value(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    # Of K samples of each of I images: answers.mentions has a row for each mention (image, sample, name, boxes), and
    # verification says of each which instance it verifies (row of truth, or -1) and at which IoU.
    raise NotImplementedError("value: return a number for each of the I images, nan where it is undefined")


MEASURE = ImageMeasure(value, meaning="What it is, in a sentence or two.", direction=HIGHER)
'''

CORRECTOR = '''"""The corrector ${name}. Check it with: detmodes check corrector ${name}"""

from __future__ import annotations

import numpy as np

from harness.metrics.diagnosis.codebook import SampleErrors
from harness.protocols import Correction, Targets
from harness.sequence import Codec
from harness.types import Example, Parsed


class ${made_by}:
    def __init__(self, codec: Codec, targets: Targets) -> None:
        self.codec, self.targets = codec, targets

    def __call__(
        self, example: Example, parsed: Parsed, errors: SampleErrors, rng: np.random.Generator, /
    ) -> list[Correction]:
        # errors.mentions has one entry for each of parsed.mentions (its kind of error or None, the object it is about),
        # errors.missed the places of example.instances that nothing refers to. self.codec.encode(pairs, width, height)
        # writes (name, box) pairs as tokens; harness.training.stages.corrections has contexts for half a list.
        raise NotImplementedError("__call__: return a Correction for each error that it puts right")
'''

BENCHMARK = '''"""The benchmark ${name}. Check it with: detmodes check benchmark ${name} --data FOLDER"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evaluators import evaluator
from benchmarks.readers.annotations import Annotations
from harness import settings as checks
from harness.errors import ConfigError
from harness.metrics.detection.accumulate import Matches
from harness.types import Category, Detection, Detections, Evaluation, Example

SETTINGS = {"train_images": checks.whole(1)}
"""Every setting that a suite file may give: its range and its default (see harness.settings)."""


class ${made_by}:
    name = "${name}"

    def __init__(self, settings: Mapping[str, Any], data: Path | None = None) -> None:
        if problems := self.problems(settings):
            raise ConfigError(*problems)
        self.settings = {**checks.defaults(SETTINGS), **settings}
        self._splits = {split: annotations(split, data) for split in ("train", "val", "calibration")}
        self.categories: tuple[Category, ...] = self._splits["train"].categories

    @staticmethod
    def problems(settings: Mapping[str, Any]) -> list[str]:
        return checks.problems("${name}", settings, SETTINGS)

    @staticmethod
    def places(settings: Mapping[str, Any]) -> list[str]:
        return []  # which settings name files or folders to be read: see harness.protocols.NamesPlaces

    def split(self, name: str) -> tuple[Example, ...]:
        examples = self._splits[name].examples
        return examples[: self.settings.get("train_images")] if name == "train" else examples

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        return evaluator.evaluate(self._splits[split], Detections.of(detections), engine=engine)

    def match(self, split: str, detections: Sequence[Detection]) -> Matches:
        return evaluator.match_detections(self._splits[split], Detections.of(detections))

    def describe(self) -> dict[str, object]:
        digests = {name: split.digest for name, split in self._splits.items()}
        return {"name": self.name, **self.settings, "digests": digests}


def annotations(split: str, data: Path | None) -> Annotations:
    # data: the folder of --data. benchmarks.readers.annotations.load(data / "train.json", data / "images") reads a file
    # in LVIS or COCO format; write another format as one first (harness.system.files.cache_root() is a place for it).
    raise NotImplementedError("annotations: return the Annotations of a split, with its pictures and categories")
'''

STAGE = '''"""The stage ${name}. Check it with: detmodes check stage ${name}"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from harness.suite.stage_base import Amount, Positive, StageSettings

if TYPE_CHECKING:
    from harness.suite.train_settings import Train
    from harness.training.stage import Stage, Work


class ${made_by}(StageSettings):
    """One sentence about what it trains on."""

    equation: ClassVar[str] = "what it minimises, in one line"
    source: ClassVar[str] = "who published it"
    name: Literal["${name}"] = "${name}"
    batch_size: Positive = 16
    """Sequences of a step. Steps, learning rate and evaluations are settings of every stage."""

    @property
    def amount(self) -> Amount:
        return Amount(drawn=0, trained=self.steps * self.batch_size)

    def make(self, plan: Train, work: Work) -> Stage:
        # plan: how it is optimised; work: the model, the training images, the seed. A Stage has `plan`, `objective`,
        # `reference` and `steps`, a generator with one Step for each step: see harness.training.stage, and, for one
        # that trains on targets with any objective, harness.training.stages.sft. Import torch in here.
        raise NotImplementedError("make: return a harness.training.stage.Stage")
'''

FAMILY = '''"""The family ${name}. Check it with: detmodes check family ${name}"""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedConfig

from harness.sequence import CoordinateSpace, TokenizerTokens
from model_zoo.vlm.family import HALF, Family


def toy(tokens: TokenizerTokens, id_of: Callable[[str], int]) -> PreTrainedConfig:
    # Of the sizes in model_zoo.vlm.family (WIDTH, LAYERS, HEADS; pictures of TOY_SIDE pixels), with tokens.size entries
    # in the vocabulary. id_of gives the id of one of the tokens below.
    raise NotImplementedError("toy: return a configuration of the model's class of transformers, of a size for tests")


FAMILY = Family(
    model_type="as its config.json says",
    prompt="<s>{image}{question}",  # with all tokens of the image, and the question
    question="detect all",
    image="<image>",  # the token that stands for a piece of the image
    end="</s>",
    mean=HALF,  # of the normalised pixels, by colour
    std=HALF,
    image_tokens=lambda config, side: (side // config.vision_config.patch_size) ** 2,
    vision=("model.vision_tower.",),  # beginnings of the names of the image encoder's parameters
    toy=toy,
    space=lambda side: CoordinateSpace(1000),
    locations=tuple(f"<loc{place:04d}>" for place in range(1000)),
)  # every field: model_zoo.vlm.family
'''

TEST = '''"""${name} keeps the contract of detmodes. Install the package first: detmodes finds it by its entry point."""

from __future__ import annotations

from harness import conformance


def test_conformance() -> None:
    outcomes = conformance.check_${kind}("${name}")
    assert [outcome for outcome in outcomes if outcome.state == "failed"] == []
'''

PACKAGE = """[project]
name = "${name}"
version = "0.1.0"
# detmodes is installed already. Named here, it would have pip refuse the pins of its own dependencies.
dependencies = []

[project.entry-points."${group}"]
${name} = "${name}:${attribute}"

[tool.setuptools]
py-modules = ["${name}"]

[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
"""

"""Checks, before anything is computed, whether prompts, targets and answers fit into the context of a model.

In: the questions of a suite's splits and a model with a context length. Out: problems, one line each, with the share of
the images concerned. Otherwise a target beyond the context would end in an index error deep within a network, or in
positions that it was never trained for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.protocols import Adapter, ContextLength, Predictor
from harness.run.context import Context
from harness.sequence import CaptionCodec, Codec
from harness.sequence.targets import fewer_objects, target
from harness.suite.schema import NamedModel
from harness.suite.train_settings import Train
from harness.types import Box, Example

SLACK = 4
"""Tokens by which an object may be longer than the one used for a bound: coordinates written as text differ in
length."""


@dataclass
class Lengths:
    """The number of tokens that a model reads for an image: the prompt, and the longest target that it may be trained
    on.

    The last token of a target or an answer is only predicted, so it takes no place.
    """

    codec: Codec
    _longest: dict[int, str] = field(default_factory=dict)
    _object: dict[int, int] = field(default_factory=dict)

    def trained(self, example: Example, plan: Train) -> int:
        """Returns the positions of prompt and target, the longest that `targets` and `max_objects` allow."""
        limit, canonical = plan.max_objects, plan.targets == "canonical"
        if limit is not None and limit.drop == "smallest":
            example = fewer_objects(example, limit.number, limit.drop, 0, 0)
        prompt = len(self.codec.prompt(example))
        if isinstance(self.codec, CaptionCodec):
            return prompt + len(target(example, self.codec, "canonical")) - 1
        names = {
            c: self.codec.names_of[c][0] if canonical else self.name(c)
            for c in {instance.category_id for instance in example.instances}
        }
        objects = [(names[instance.category_id], instance.box) for instance in example.instances]
        if limit is not None:
            objects.sort(key=lambda named: len(self.codec.tokens.encode_name(named[0])), reverse=True)
            objects = objects[: limit.number]
        return prompt + len(self.codec.encode(objects, example.width, example.height)) - 1

    def bound(self, example: Example) -> int:
        """Returns an upper bound of `trained`, without making any target."""
        each = [self.object(instance.category_id) + SLACK for instance in example.instances]
        return len(self.codec.prompt(example)) + sum(each) + SLACK

    def name(self, category: int) -> str:
        """Returns the name of a category with the most tokens."""
        if category not in self._longest:
            names = self.codec.names_of[category]
            self._longest[category] = max(names, key=lambda name: len(self.codec.tokens.encode_name(name)))
        return self._longest[category]

    def object(self, category: int) -> int:
        """Counts the tokens of a target that lists one object of this category."""
        if category not in self._object:
            alone = [(self.name(category), Box(50.0, 50.0, 50.0, 50.0))]
            self._object[category] = len(self.codec.encode(alone, 100, 100))
        return self._object[category]

    def beyond(self, examples: Sequence[Example], plan: Train, most: int) -> list[int]:
        """Returns the positions of every image that may exceed `most`."""
        captions = isinstance(self.codec, CaptionCodec)
        long = (example for example in examples if captions or self.bound(example) > most)
        return [places for example in long if (places := self.trained(example, plan)) > most]


def problems(context: Context, model: NamedModel, made: Predictor) -> list[str]:
    """Lists where the suite may exceed a model's context length; nothing for a model without one."""
    most = made.context_length if isinstance(made, ContextLength) else None
    if most is None:
        return []
    lines = _answers(context, model, made, most)
    if not isinstance(made, Adapter):
        return lines
    lengths, seed = Lengths(made.codec), context.suite.seeds[0]
    plans = {objective.label: context.suite.train_of(model, objective) for objective in context.suite.objectives}
    told: dict[tuple[str, str], None] = {}
    for label, plan in plans.items():
        same = (plan.targets, str(plan.max_objects))
        if same in told:
            continue
        told[same] = None
        examples = context.questions("train", seed)
        if places := lengths.beyond(examples, plan, most):
            lines.append(
                f"model {model.label}: objectives.{label}: prompt and target take up to {max(places)} places, "
                f"expected at most the {most} that it can read; {_share(len(places), len(examples))} of the training "
                "images take more; give train.max_objects"
            )
    return lines


def _answers(context: Context, model: NamedModel, made: Predictor, most: int) -> list[str]:
    questions, tokens = context.questions("val", 0), context.suite.sample.max_tokens
    places = [len(made.codec.prompt(question)) + tokens - 1 for question in questions]
    if (number := sum(of_image > most for of_image in places)) == 0:
        return []
    return [
        f"sample.max_tokens: prompt and answer of model {model.label} may take {max(places)} places, expected at most "
        f"the {most} that it can read, for {_share(number, len(questions))} of the validation images; use at most "
        f"{tokens - max(places) + most}"
    ]


def _share(some: int, everything: int) -> str:
    return f"{100 * some / everything:.3g}%"


def readable(made: Predictor, examples: Sequence[Example]) -> tuple[Example, ...]:
    """Returns the examples whose whole target fits into the context: held-out loss and calibration use these."""
    most = made.context_length if isinstance(made, ContextLength) else None
    if most is None:
        return tuple(examples)
    lengths, plan = Lengths(made.codec), Train(targets="random")
    captions = isinstance(made.codec, CaptionCodec)
    return tuple(
        example
        for example in examples
        if (not captions and lengths.bound(example) <= most) or lengths.trained(example, plan) <= most
    )


def cut_targets(made: Adapter, examples: Sequence[Example], plan: Train, max_tokens: int) -> float:
    """Returns the share of the examples whose longest target has more than `max_tokens` tokens: a model that has learnt
    it is cut off."""
    lengths = Lengths(made.codec)
    prompts: dict[int, list[Example]] = {}
    for example in examples:
        prompts.setdefault(len(made.codec.prompt(example)), []).append(example)
    long = sum(len(lengths.beyond(alike, plan, prompt - 1 + max_tokens)) for prompt, alike in prompts.items())
    return long / len(examples)

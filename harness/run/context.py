"""Holds what all cells of a run share: suite, benchmark, device, and the receivers of progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from accelerate import Accelerator

from harness import registry
from harness.errors import ConfigError
from harness.inference.device import Device, accelerator_on, base_of
from harness.inference.precision import Numbers, choose_numbers, describe_precision
from harness.protocols import Adapter, Benchmark, Predictor, TakesCoordinates
from harness.records import CellInfo, gallery
from harness.run import task
from harness.run.identity import digest_splits
from harness.run.output.watch import Silence, Watch
from harness.run.trackers import Name
from harness.sequence import Grammar, Space, prompts
from harness.suite.cells import Cell
from harness.suite.schema import NamedModel, Suite
from harness.suite.train_settings import Train
from harness.system import ranks
from harness.training.prefetch import WORKERS
from harness.types import Category, Example

SNAPSHOT_EVERY = "10m"


@dataclass
class Context:
    """The values that all cells of a run share."""

    suite: Suite
    benchmark: Benchmark
    accelerator: Accelerator
    watch: Watch = field(default_factory=Silence)
    snapshot_every: str | int = SNAPSHOT_EVERY
    """Interval between checkpoints: steps, or a time like 10m (see harness.run.interval)."""
    workers: int = WORKERS
    """Threads that read the next images of training (see harness.training.prefetch)."""
    profile: bool = False
    """Whether to write where the time of a cell goes (see harness.system.profiler)."""
    coordinates: Space | None = None
    """Coordinates of the suite's first model, once it has been built: the oracles answer in them."""
    left_out: task.LeftOut = field(default_factory=dict)
    """Images without a picture that can be read, which `images: skip` does without."""
    track: Name | None = None
    """The experiment tracker that receives the log (see harness.run.trackers)."""

    @cached_property
    def early(self) -> Benchmark:
        """Returns the benchmark for evaluations before the last step; the same one unless the suite has
        `eval_images`."""
        number = self.suite.train.eval_images
        return self.benchmark if number is None else task.early(self.benchmark, number)

    @cached_property
    def train_images(self) -> Counter[int]:
        """Counts the training images that have each category, by its id."""
        return Counter(
            c for example in self.benchmark.split("train") for c in {i.category_id for i in example.instances}
        )

    def questions(self, split: str, seed: int) -> tuple[Example, ...]:
        """Returns the questions about a split's images: the images themselves, or several questions each, next to
        each other.

        Questions about the validation images are always the same; those about other splits depend on the seed.
        ConfigError where no image has a question.
        """
        examples, prompt = self.benchmark.split(split), self.suite.prompt
        if prompt.chunk is None:
            return examples
        asked = [question for example in examples for question in self._about(example, split, seed, prompt.chunk)]
        if examples and not asked:
            raise ConfigError(
                f"prompt: no image of the {split} split has a verified category to ask about; use kind: open"
            )
        return tuple(asked)

    def _about(self, example: Example, split: str, seed: int, chunk: int) -> list[Example]:
        categories, prompt = self.benchmark.categories, self.suite.prompt
        if split != "val":
            return prompts.about(example, prompts.taught(example, prompt.negatives, seed), categories, chunk)
        everything = {category.id for category in categories} if prompt.evaluate == "all" else prompts.verified(example)
        return prompts.about(example, everything, categories, chunk)

    @cached_property
    def picture_digests(self) -> dict[str, str]:
        """See harness.run.identity."""
        return digest_splits(self.benchmark, partial(self.watch.work, "read pictures"))

    @cached_property
    def pictures(self) -> list[Example]:
        """Returns the validation images that the gallery shows."""
        return gallery.choose_pictures(self.benchmark.split("val"), self.benchmark.categories)


def open_context(suite: Suite, data: Path | None, device: Device, watch: Watch | None = None) -> Context:
    watch = watch or Silence()
    accelerator = accelerator_on(device)  # first: from here on all processes learn of a failure in one of them
    benchmark, left_out = ranks.make_on_all(accelerator, partial(_benchmark, suite, data, watch))
    context = Context(suite, benchmark, accelerator, watch, left_out=left_out)
    if suite.counts_epochs:
        images = len(context.questions("train", suite.seeds[0]))
        context.suite = suite.model_copy(update={"epoch_images": images})
    return context


def _benchmark(suite: Suite, data: Path | None, watch: Watch) -> tuple[Benchmark, task.LeftOut]:
    skip = suite.images == "skip"
    benchmark = registry.benchmark(suite.benchmark.name, suite.benchmark.settings, data, every_picture=not skip)
    left_out: task.LeftOut = {}
    if skip:
        benchmark, left_out = task.without_unreadable(benchmark, partial(watch.work, "check images"))
    if suite.val_ids is not None:
        inside = suite.val_ids if data is None else data / suite.val_ids
        path = inside if inside.is_file() else suite.val_ids
        benchmark = task.Chosen(benchmark, task.read_ids(path, benchmark))
    return task.of_benchmark(benchmark, suite.task), left_out


@dataclass(frozen=True, slots=True)
class Planned:
    """A cell with everything that determines its result, and the folder of that result."""

    cell: Cell
    info: CellInfo
    digest: str
    folder: Path


def build(context: Context, model: NamedModel, plan: Train | None = None, like: Adapter | None = None) -> Predictor:
    """Makes a new base of a model, on the device. plan: settings of its training, by default those of the suite for
    the model. like: another base of the same model, whose frozen tensors it shares."""
    plan, device = plan or context.suite.train_of(model), context.accelerator.device
    numbers = choose_numbers(device, plan.precision), evaluation_numbers(context, plan)
    make = partial(registry.model, model.name, context.benchmark.categories, model.settings)
    made = base_of(
        make, context.accelerator, frozen_in_bf16=all(number_format.bf16 for number_format in numbers), like=like
    )
    prepare_predictor(context, model, made)
    return made


def prepare_predictor(context: Context, model: NamedModel, made: Predictor) -> None:
    """Fits a predictor to the suite: coordinates, task and prompts. ConfigError for a format that is not possible."""
    if model == context.suite.models[0]:
        context.coordinates = made.codec.space
    elif isinstance(made, TakesCoordinates):
        made.take_coordinates(_coordinates(context))
    task.of_model(made, context.benchmark, context.suite.task)
    if context.suite.sample.grammar:
        Grammar(made.codec)  # a format without a grammar is refused now, not after training
    if context.suite.prompt.kind == "categories":
        made.codec.prompt(_asked_about(context.benchmark.categories[:1]))  # likewise


def _coordinates(context: Context) -> Space:
    """Returns the coordinates of the first model, which is built if necessary."""
    if context.coordinates is None:
        build(context, context.suite.models[0])
    assert context.coordinates is not None
    return context.coordinates


def evaluation_numbers(context: Context, plan: Train) -> Numbers:
    """Returns the number format for models that are not being trained: that of training, unless the suite's `sample`
    names one."""
    return choose_numbers(context.accelerator.device, context.suite.sample.precision, plan.precision)


def precision_asked_for(context: Context, cell: Cell) -> str:
    """Returns the number formats that the settings ask for; the observed ones are the record's `precision`."""
    if cell.objective is None:
        return describe_precision(None, evaluation_numbers(context, context.suite.train_of(cell.model)))
    plan = context.suite.train_of(cell.model, cell.objective)
    training = choose_numbers(context.accelerator.device, plan.precision)
    return describe_precision(training, evaluation_numbers(context, plan))


def _asked_about(categories: Sequence[Category]) -> Example:
    """Makes a question about these categories, without a picture."""
    return Example(0, Path(), 1, 1, (), asked=tuple(category.id for category in categories))

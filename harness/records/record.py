"""Defines what a finished cell leaves behind: one folder with a record and its tables.

    record.json          this schema; everything else in the folder is named in it with its sha256
    images.parquet       per evaluation step, temperature, image and category: counts that figures and intervals need
    detections.parquet   per evaluation step and detection of the greedy answer (temperature 0) and of the consensus
                         of K samples (their temperature): box, score, match
    samples.parquet      one row per sample, empty ones too; of a mixture, with the expert that gave it
    mentions.parquet     one row per mention
    gallery.parquet      the mentions of a few images, at the last step
    pairs.parquet        the pairs of a preference stage, see harness.training.stages.pairs
    corrections.parquet  the corrections of a stage of negative supervision, see harness.training.stages.nsft
    metrics.jsonl        what was logged along training: a line per logged step, probe and evaluation
    model.safetensors    the fine-tuned weights, if they are kept

Tables, figures and verdicts are functions of the record, the first two tables and the gallery. A record is written last
and by renaming, so a folder with a valid record is a finished (or cleanly failed) cell and nothing else is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from harness.errors import DataError
from harness.records.layout import require_no_link
from harness.system.files import PLAIN_NAME, sha256, write_text
from harness.system.provenance.parts import PartInfo
from harness.system.strict import DigestedModel, StrictModel, first_problem
from harness.types import Frequency, Role

FORMAT = 1
"""Version of records. Raise it when the meaning of a record changes: it is part of every cell's digest, so old cells
are run again."""
RECORD = "record.json"
TABLES = ("images", "detections", "samples", "mentions")
PUBLISHED_TABLES = ("images", "detections")
GALLERY = "gallery.parquet"
GREEDY = 0.0
"""Temperature of the greedy answer."""

FileName = Annotated[str, Field(pattern=PLAIN_NAME)]
Figures = dict[str, float | None]


class CategoryInfo(StrictModel):
    id: int
    names: tuple[str, ...]
    frequency: Frequency | None
    train_images: int | None = None
    """Number of training images that have the category; None in records of older code."""


class CellInfo(DigestedModel):
    """All resolved settings of a cell; the cell's digest is computed from them and the record's format."""

    LATER: ClassVar[frozenset[str]] = frozenset({"prompt", "pictures", "parts"})

    benchmark: dict[str, Any]
    model: dict[str, Any]
    objective: dict[str, Any] | None
    """None where nothing is trained (the base and the oracles)."""
    seed: int
    train: dict[str, Any] | None
    sample: dict[str, Any]
    score: str
    prompt: dict[str, Any] | None = None
    """None for the open prompt."""
    pictures: dict[str, str] = Field(default_factory=dict)
    """Maps a split to the digest of its pictures (harness.system.provenance.pictures); empty where the benchmark
    renders them."""
    parts: dict[str, str] = Field(default_factory=dict)
    """Parts that other packages bring, as "model mine" -> digest of their source (harness.system.provenance.parts)."""

    @model_serializer(mode="wrap")
    def _without_unused(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self.without_unused(serialise(self))


class EvaluationInfo(StrictModel):
    """Figures at one training step: point estimates of this seed, undefined ones None."""

    step: int
    metrics: Figures
    """Official figures of the evaluator for the greedy answer; empty where the task has no boxes."""
    consensus: Figures = Field(default_factory=dict)
    """The same for the consensus of the K samples; empty where it was not computed (all but the last step)."""
    diversity: Figures
    """Means over all categories, and over those of one frequency with the suffix /r, /c, /f (see
    harness.metrics.samples.aggregate). Those of each category are computed from the tables when they are needed."""
    images: int | None = None
    """Number of validation images that were evaluated, at a step before the last (`eval_images`); None: all."""
    heldout_nll: float | None
    """Cross-entropy in nats per target token on the calibration split, canonical targets."""

    @model_validator(mode="before")
    @classmethod
    def _without_what_the_tables_say(cls, content: Any) -> Any:
        """Drops the figures of each category, which older code also wrote here."""
        if isinstance(content, dict) and "per_category" in content:
            return {name: value for name, value in content.items() if name != "per_category"}
        return content


class MeasureInfo(StrictModel):
    """What a report says of a measure of another package, which need not be installed there."""

    heading: str
    direction: Literal[-1, 0, 1]
    """1: higher is better; -1: lower is; 0: that depends."""
    meaning: str


class Record(StrictModel):
    format: int = FORMAT
    status: Literal["finished", "failed"]
    error: str | None = None
    suite: str
    label: str
    """The row it belongs to: "base", an objective's label, or an oracle's name."""
    model_label: str
    role: Role
    cell: CellInfo
    digest: str
    threshold: float | None = None
    """Threshold of SED-SFT, where a quantile was calibrated."""
    collision_rate: float | None = None
    """Share of the training sequences that had another sequence of their image in their batch."""
    epochs: float | None = None
    """How often fine-tuning went over the training images, all targets of each; None where nothing is trained, and in
    records of older code."""
    left_out_objects: dict[str, int] | None = None
    """Where a target lists at most `max_objects` objects: the number of training images that have more, and of
    objects that their targets leave out in an epoch. None without such a limit."""
    unwritable_objects: dict[str, int] | None = None
    """Number of training objects whose box has no area in the model's coordinates, which are no targets, and of their
    images. None where there is none, and in records of older code, which trained on them."""
    left_out_pictures: dict[str, dict[str, int]] | None = None
    """Where the suite says `images: skip`: by split, how many images it did without because their picture was "missing"
    or "unreadable". None in other suites and in records of older code; `data` has their ids."""
    cut_targets: float | None = None
    """Share of the training images whose longest target does not fit into an answer: it has more than
    `sample.max_tokens` tokens. None where nothing is trained, and in records of older code."""
    prompts: dict[str, int] | None = None
    """Where reinforcement learning leaves out images whose samples of the base all succeed or all fail (`prefilter`):
    how many there were (`images`), are `used`, `all_failed` and `all_succeeded`. None without that."""
    categories: tuple[CategoryInfo, ...] = ()
    image_ids: tuple[int, ...] = ()
    data: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    code: dict[str, Any]
    packages: dict[str, str]
    parts: dict[str, PartInfo] = Field(default_factory=dict)
    """Versions of other packages, by the names in `cell`."""
    measures: dict[FileName, MeasureInfo] = Field(default_factory=dict)
    """Measures of other packages that the suite asks for. Their means over the images are among the figures of
    `diversity`; the value of each image is in images.parquet, in a column `measure_NAME`."""
    seeds: dict[str, int] = Field(default_factory=dict)
    """Seeds. base: of weights that a base does not have; training: of batches, targets and dropout; samples: of
    sampling from the model. Empty in records of older code, where that of the base is 0 and the others are the
    cell's."""
    device: dict[str, Any]
    precision: dict[str, str] = Field(default_factory=dict)
    """Number formats of training and generation, as observed in their forward passes; empty for an oracle. `device`
    has the formats that the settings ask for (in records of older code: those expected on a device of that type)."""
    evaluator: dict[str, str] = Field(default_factory=dict)
    score_source: str = ""
    evaluations: tuple[EvaluationInfo, ...] = ()
    curve: tuple[dict[str, Any], ...] = ()
    probe: tuple[dict[str, Any], ...] = ()
    """Results of harness.evaluation.probe along training, step 0 (the base) first; undefined values None."""
    timings: dict[str, float] = Field(default_factory=dict)
    """Seconds by phase; `waiting`, for data, is a part of `train`."""
    own_peak_mib: float | None = None
    """Largest memory use of the cell in MiB; None unless it was the first that its process computed, see
    harness.system.provenance.memory.PeakMemory."""
    peak_memory_mib: float | None = None
    """Peak memory in records of older code; it depended on what the process had computed before, so no figure is made
    of it."""
    files: dict[FileName, str] = Field(default_factory=dict)
    """Maps each other file of the cell to its sha256."""

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(evaluation.step for evaluation in self.evaluations)

    @property
    def seconds(self) -> float:
        """Returns the seconds that the cell took; 0 where they are not known."""
        return sum(seconds for name, seconds in self.timings.items() if name != "waiting")

    def evaluation(self, step: int) -> EvaluationInfo:
        return next(item for item in self.evaluations if item.step == step)


def write_record(record: Record, folder: Path) -> None:
    """Writes the record atomically, see `files.write_text`."""
    write_text(folder / RECORD, record.model_dump_json() + "\n")


def record_time(folder: Path) -> float:
    """Returns when the record of a cell was written, in seconds by the clock of its file system (files.clock); 0
    without one."""
    with suppress(OSError):
        return (folder / RECORD).stat().st_mtime
    return 0.0


def read_record(folder: Path) -> Record:
    """Reads the record of a cell's folder. Raises DataError (one line: file, field, expectation)."""
    path = folder / RECORD
    require_no_link(path)
    try:
        record = Record.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no record here") from None
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if record.format != FORMAT:
        raise DataError(f"{path}: expected record format {FORMAT}, got {record.format}; run the cell again")
    return record


def verify_files(record: Record, folder: Path, names: Sequence[str]) -> None:
    """Raises DataError unless each named file of the cell exists and is the one that the record describes."""
    for name in names:
        path = folder / name
        if name not in record.files:
            raise DataError(f"{folder / RECORD}: files: expected {name}, got {sorted(record.files)}")
        require_no_link(path)
        if not path.is_file() or sha256(path) != record.files[name]:
            raise DataError(f"{path}: missing, or not the file that {RECORD} describes")


def digest_of(cell: CellInfo) -> str:
    """Computes the digest that identifies a cell: the same settings give the same 64 hex digits."""
    text = json.dumps([FORMAT, cell.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

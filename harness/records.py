"""What a finished cell leaves behind (DESIGN 6.6): one folder with a record and its tables.

    record.json          this schema; everything else in the folder is named in it with its sha256
    images.parquet       per evaluation step, temperature, image and category: counts that figures and intervals need
    detections.parquet   per evaluation step and detection of the greedy answer (temperature 0) and of the consensus
                         of K samples (their temperature): box, score, match
    samples.parquet      one row per sample, empty ones too
    mentions.parquet     one row per mention
    gallery.parquet      the mentions of a few images, at the last step
    pairs.parquet        what a preference stage learnt from, see harness.pairs; corrections.parquet: see harness.nsft
    metrics.jsonl        what was logged along training: a line per logged step, probe and evaluation
    model.safetensors    the fine-tuned weights, if kept

Tables, figures and verdicts are functions of the record, the first two tables and the gallery. A record is written last
and by renaming, so a folder with a valid record is a finished (or cleanly failed) cell and nothing else is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from harness.errors import DataError
from harness.files import PLAIN_NAME, write_text
from harness.metrics.ap import Matches
from harness.metrics.diversity import CategoryTable, ImageTable
from harness.metrics.mentions import Truth, name_counts
from harness.types import Frequency

FORMAT = 1
"""Raise when the meaning of a record changes: it is part of every cell's digest, so old cells are run again."""
RECORD = "record.json"
TABLES = ("images", "detections", "samples", "mentions")
PUBLISHED_TABLES = ("images", "detections")
GALLERY = "gallery.parquet"
GREEDY = 0.0
"""Temperature of the greedy answer."""

FileName = Annotated[str, Field(pattern=PLAIN_NAME)]
Figures = dict[str, float | None]
Role = Literal["base", "trained", "oracle"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CategoryInfo(_Strict):
    id: int
    names: tuple[str, ...]
    frequency: Frequency | None
    train_images: int | None = None
    """How many images of the training split have it; None in records of older code."""


class CellInfo(_Strict):
    """All settings, resolved; with the record's format they are what the digest is made of."""

    benchmark: dict[str, Any]
    model: dict[str, Any]
    objective: dict[str, Any] | None
    """None where nothing is trained (the base and the oracles)."""
    seed: int
    train: dict[str, Any] | None
    sample: dict[str, Any]
    score: str
    prompt: dict[str, Any] | None = None
    """None for the open prompt, and then left out, as in records of older code."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialise(self)
        return {key: value for key, value in content.items() if (key, value) != ("prompt", None)}


class EvaluationInfo(_Strict):
    """Figures at one training step: point estimates of this seed, undefined ones None."""

    step: int
    metrics: Figures
    """Official figures of the evaluator for the greedy answer; empty where the task has no boxes."""
    consensus: Figures = {}
    """The same for the consensus of the K samples; empty where it was not made (all but the last step)."""
    diversity: Figures
    """DESIGN 6.4, over all categories, and by frequency with the suffix /r, /c, /f."""
    per_category: dict[int, Figures]
    heldout_nll: float | None
    """Cross-entropy in nats per target token on the calibration split, canonical targets."""


class Record(_Strict):
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
    """SED-SFT's threshold, where a quantile was calibrated."""
    collision_rate: float | None = None
    """Share of the training sequences that shared their image with another one of their batch."""
    categories: tuple[CategoryInfo, ...] = ()
    image_ids: tuple[int, ...] = ()
    data: dict[str, Any] = {}
    model: dict[str, Any] = {}
    code: dict[str, Any]
    packages: dict[str, str]
    device: dict[str, Any]
    evaluator: dict[str, str] = {}
    score_source: str = ""
    evaluations: tuple[EvaluationInfo, ...] = ()
    curve: tuple[dict[str, Any], ...] = ()
    probe: tuple[dict[str, Any], ...] = ()
    """What harness.probe saw along training, step 0 (the base) first; undefined values None."""
    timings: dict[str, float] = {}
    """Seconds; `waiting`, for data, is a part of `train`."""
    peak_memory_mib: float | None = None
    files: dict[FileName, str] = {}
    """Name -> sha256 of every other file of the cell."""

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(evaluation.step for evaluation in self.evaluations)

    @property
    def seconds(self) -> float:
        """What the cell took; 0 where it is not known."""
        return sum(seconds for name, seconds in self.timings.items() if name != "waiting")

    def evaluation(self, step: int) -> EvaluationInfo:
        return next(item for item in self.evaluations if item.step == step)


def write(record: Record, folder: Path) -> None:
    """Atomically, see `files.write_text`."""
    write_text(folder / RECORD, record.model_dump_json(indent=1) + "\n")


def written(folder: Path) -> float:
    """When the record of a cell was, in seconds by the clock of its file system (files.clock); 0 without one."""
    with suppress(OSError):
        return (folder / RECORD).stat().st_mtime
    return 0.0


def read(folder: Path) -> Record:
    """The record of a cell's folder. Raises DataError (one line: file, field, expectation)."""
    path = folder / RECORD
    try:
        record = Record.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no record here") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: field {where or '(file)'}: {first['msg']}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if record.format != FORMAT:
        raise DataError(f"{path}: expected record format {FORMAT}, got {record.format}; run the cell again")
    return record


def verify_files(record: Record, folder: Path, names: Sequence[str]) -> None:
    """Each named file of the cell is there and is the one that the record describes."""
    for name in names:
        path = folder / name
        if name not in record.files:
            raise DataError(f"{folder / RECORD}: files: expected {name}, got {sorted(record.files)}")
        if not path.is_file() or sha256(path) != record.files[name]:
            raise DataError(f"{path}: missing, or not the file that {RECORD} describes")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(cell: CellInfo) -> str:
    """Names a cell: the same settings give the same 64 hex digits."""
    text = json.dumps([FORMAT, cell.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# ---- tables <-> the arrays that metrics work on ------------------------------------------------------------------

COUNTS = (
    *("samples", "mentions", "verified_mentions", "neutral_mentions"),
    *("duplicates", "hallucinations", "unknown_names", "malformed", "truncated"),
)
"""Fields of an ImageTable that are whole numbers; the others are real."""
PER_IMAGE = tuple(ImageTable.__dataclass_fields__)
PER_CATEGORY = ("present", "choices", "name_diversity", "distinct_names", "box_spread")
"""Fields of a CategoryTable that are columns of the same name."""


def image_frame(
    step: int, temperature: float, truth: Truth, category_ids: Sequence[int], table: CategoryTable, images: ImageTable
) -> pd.DataFrame:
    """Rows of images.parquet: one per image and category with ground truth, then one per image (no category).

    verified: for each instance, how many of the K samples verify it (ascending); names: for each name that was
    used, in how many of them.
    """
    per_category = {
        "image_id": truth.image_ids[table.image],
        "category_id": np.array(category_ids, dtype=np.int64)[table.category],
        "instances": table.verified.sum(axis=1),
        "verified": _counts(table.verified),
        "names": _counts(np.nan_to_num(table.named).astype(np.int64)),
        **{name: getattr(table, name) for name in PER_CATEGORY},
    }
    per_image = {"image_id": truth.image_ids, **{name: getattr(images, name) for name in PER_IMAGE}}
    empty = {name: [None] * len(truth.image_ids) for name in ("verified", "names")}
    frame = pd.concat([pd.DataFrame(per_category), pd.DataFrame(per_image | empty)], ignore_index=True)
    whole = ["image_id", "category_id", "instances", "present", "choices", "distinct_names", *COUNTS]
    frame[whole] = frame[whole].astype("Int64")
    frame.insert(0, "step", step)
    frame.insert(1, "temperature", float(temperature))
    return frame


def _counts(histogram: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Row [0, 2, 1] -> [1, 1, 2]: two that were counted once, one that was counted twice."""
    rows, width = histogram.shape
    flat = np.repeat(np.tile(np.arange(width), rows), histogram.ravel())
    return np.split(flat, np.cumsum(histogram.sum(axis=1))[:-1]) if rows else []


def _histogram(counts: Sequence[NDArray[np.int64]], width: int) -> NDArray[np.int64]:
    """The inverse of `_counts`, [rows, width]."""
    histogram = np.zeros((len(counts), width), dtype=np.int64)
    lengths = [len(own) for own in counts]
    if sum(lengths):
        np.add.at(histogram, (np.repeat(np.arange(len(counts)), lengths), np.concatenate(counts)), 1)
    return histogram


def tables(frame: pd.DataFrame, step: int, temperature: float, record: Record) -> tuple[CategoryTable, ImageTable]:
    """images.parquet at one step and temperature as the arrays that harness.metrics.aggregate takes.

    What the code of an older record did not measure is nan: undefined.
    """
    chosen = frame[frame["step"] == step]
    if "temperature" in frame:  # records of older code know a single one
        chosen = chosen[chosen["temperature"] == temperature]
    per_category = chosen[chosen["category_id"].notna()]
    per_image = chosen[chosen["category_id"].isna()].set_index("image_id").loc[list(record.image_ids)]
    width = int(per_image["samples"].max()) + 1
    image = {image_id: index for index, image_id in enumerate(record.image_ids)}
    category = {info.id: index for index, info in enumerate(record.categories)}
    named = np.full((len(per_category), width), np.nan)
    if "names" in frame:
        named = _histogram(per_category["names"].to_list(), width).astype(np.float64)
    table = CategoryTable(
        n_images=len(record.image_ids),
        names=name_counts(record.categories),
        image=_indices(per_category["image_id"], image),
        category=_indices(per_category["category_id"], category),
        verified=_histogram(per_category["verified"].to_list(), width),
        named=named,
        **{name: _column(per_category, name) for name in PER_CATEGORY},
    )
    return table, ImageTable(**{name: _column(per_image, name) for name in PER_IMAGE})


def _column(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A column as floats; nan where it is null, and throughout where there is none."""
    if name not in frame:
        return np.full(len(frame), np.nan)
    return frame[name].to_numpy(np.float64, na_value=np.nan)


def matches(
    images: pd.DataFrame, detections: pd.DataFrame, step: int, record: Record, temperature: float = GREEDY
) -> Matches:
    """detections.parquet at one step as the arrays that harness.metrics.ap takes: of the greedy answer, or of the
    consensus at a temperature. Order is kept: ties are ranked as they were when the cell was evaluated."""
    image = {image_id: index for index, image_id in enumerate(record.image_ids)}
    category = {info.id: index for index, info in enumerate(record.categories)}
    if "temperature" not in detections:  # records of older code have the greedy answer alone
        detections = detections.assign(temperature=GREEDY)
    at_step = detections[detections["step"] == step]
    found = at_step[(at_step["temperature"] == temperature) & at_step["evaluated"]]
    truth = images[(images["step"] == step) & images["category_id"].notna()]
    if "temperature" in truth:  # the same instances at each
        truth = truth[truth["temperature"] == truth["temperature"].min()]
    return Matches(
        n_images=len(record.image_ids),
        detection=np.arange(len(found)),
        image=_indices(found["image_id"], image),
        category=_indices(found["category_id"], category),
        score=found["score"].to_numpy(np.float64),
        true_positive=found["true_positive"].to_numpy(np.uint16),
        ignored=found["ignored"].to_numpy(np.bool_),
        gt_image=_indices(truth["image_id"], image),
        gt_category=_indices(truth["category_id"], category),
        gt_count=truth["instances"].to_numpy(np.int64),
        # Records from before COCO's crowd regions were known have no such column.
        left_out=found["left_out"].to_numpy(np.uint16) if "left_out" in found else None,
    )


def _indices(values: pd.Series[Any], index: dict[int, int]) -> NDArray[np.int64]:
    return np.array([index[int(value)] for value in values], dtype=np.int64)

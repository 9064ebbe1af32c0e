"""Runs `detmodes speed diversity`: measures the cost of measuring K samples of many images on this machine.

Every measurement is a fresh process that reads its files, validates them and measures: seconds of that work, and the
peak memory of the process. The set is generated from a seed, see `harness.commands.speed.synthetic`.

Shape legend: I images, K samples per image, M mentions.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.readers import samples
from benchmarks.readers.annotations import load
from benchmarks.readers.samples_parquet import MENTIONS, SAMPLES
from harness.commands.score import measure
from harness.commands.speed import synthetic
from harness.metrics.samples.consensus import consensus
from harness.metrics.samples.mentions import Integers
from harness.metrics.samples.text import NameSequences, self_bleu
from harness.system import timing
from harness.system.files import check_place, write_text
from harness.types import Detections

PACKAGES = ("detmodes", "numpy", "scipy", "msgspec", "pyarrow", "sacrebleu")
CATEGORIES = 1203
UNKNOWN_SHARE = 0.02
"""Share of mentions whose name no category has."""
COMPARED_IMAGES = 500
"""Images on which self-BLEU is compared with sacrebleu: a few seconds of its time."""
TOLERANCE = 1e-6
"""Largest difference between the two."""
GOALS = {"figures": "20 s, 2,000 MiB", "figures and text": "60 s"}
"""Largest cost of 20,000 images with 8 samples of 10 mentions on two cores."""


@dataclass(frozen=True, slots=True)
class SampleSetSize:
    """Size of a generated set; `mentions`: of each sample."""

    images: int
    samples: int
    mentions: int

    def __str__(self) -> str:
        return f"{self.images:,} images x {self.samples} samples x {self.mentions} mentions"


@dataclass(frozen=True, slots=True)
class DiversityTiming:
    """One row. stages: seconds of each step."""

    task: str
    input: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    stages: Mapping[str, float] = field(default_factory=dict)


def command(images: int, samples_per_image: int, mentions: int, seed: int, output: Path | None) -> int:
    """Prints the table. Returns the exit code: 0, or 1 if self-BLEU differs from sacrebleu's.

    Raises ConfigError, before anything is measured, for an output that has no folder.
    """
    if output is not None:
        check_place(output)
    from harness.system.provenance.versions import package_versions

    shape = SampleSetSize(images, samples_per_image, mentions)
    with tempfile.TemporaryDirectory(prefix="detmodes-speed-") as folder:
        files = generate(Path(folder), shape, seed)
        rows = list(_measurements(files))
        _note(f"self-BLEU beside sacrebleu on {min(images, COMPARED_IMAGES):,} images")
        reference = compare_self_bleu(files, COMPARED_IMAGES)
    document = {
        "machine": {**timing.machine(), "packages": package_versions(PACKAGES)},
        "seed": seed,
        "shape": asdict(shape),
        "measurements": [asdict(row) for row in rows],
        "self_bleu": reference,
    }
    print(from_document(document))
    if output is not None:
        write_text(output, json.dumps(document, indent=1) + "\n")
    if reference is not None and not reference["difference"] <= TOLERANCE:
        print(f"detmodes: self-BLEU differs from sacrebleu's by {reference['difference']:g}", file=sys.stderr)
        return 1
    return 0


# ---- the set -----------------------------------------------------------------------------------------------------


def generate(folder: Path, shape: SampleSetSize, seed: int) -> dict[str, Path]:
    """Generates an annotation file, and samples of it by kind of input. The same arguments give the same samples."""
    _note(f"generating {shape}")
    rng = np.random.default_rng(seed)
    objects = synthetic.generate_objects(shape.images, CATEGORIES, rng)
    files = {"annotations": folder / "lvis.json", "JSON Lines": folder / "samples.jsonl", "Parquet": folder / "cell"}
    synthetic.write_annotations(files["annotations"], objects, "lvis", rng)
    mentions = synthetic.generate_detections(objects, shape.samples * shape.mentions, rng)
    sample = np.tile(np.repeat(np.arange(shape.samples), shape.mentions), shape.images)
    names = _names(mentions, rng)
    with files["JSON Lines"].open("w") as stream:
        stream.writelines(_lines(shape, mentions, names))
    _write_cell(files["Parquet"], shape, mentions, sample, names)
    return files


def _names(mentions: Detections, rng: np.random.Generator) -> list[str]:
    """Draws one of the names of each category, all equally often, and a few that no category has."""
    of_category = [synthetic.names(rank) for rank in range(CATEGORIES)]
    draws = zip((mentions.category_id - 1).tolist(), rng.random(len(mentions)).tolist(), strict=True)
    chosen = [of_category[rank][int(draw * len(of_category[rank]))] for rank, draw in draws]
    for row in np.flatnonzero(rng.random(len(mentions)) < UNKNOWN_SHARE).tolist():
        chosen[row] += "?"
    return chosen


def _lines(shape: SampleSetSize, detected: Detections, names: list[str]) -> Iterator[str]:
    mention = '{"name": "%s", "bbox": [%.2f, %.2f, %.2f, %.2f], "score": %.6f}'
    for row in range(shape.images * shape.samples):
        part = slice(row * shape.mentions, (row + 1) * shape.mentions)
        rows = zip(names[part], *detected.boxes[part].T.tolist(), detected.scores[part].tolist(), strict=True)
        image, sample = divmod(row, shape.samples)
        mentions = ", ".join(mention % values for values in rows)
        yield f'{{"image_id": {image + 1}, "sample": {sample}, "mentions": [{mentions}]}}\n'


def _write_cell(folder: Path, shape: SampleSetSize, mentions: Detections, sample: Integers, names: list[str]) -> None:
    folder.mkdir()
    image = np.repeat(np.arange(1, shape.images + 1), shape.samples)
    number = np.tile(np.arange(shape.samples), shape.images)
    pq.write_table(
        pa.table({"image_id": image, "sample": number, "temperature": np.ones(len(image))}), folder / SAMPLES
    )
    sides = dict(zip("xywh", mentions.boxes.T, strict=True))
    columns = {"image_id": mentions.image_id, "sample": sample, "name": names, **sides, "name_score": mentions.scores}
    pq.write_table(pa.table(columns), folder / MENTIONS)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- what is measured --------------------------------------------------------------------------------------------


def _measurements(files: Mapping[str, Path]) -> Iterator[DiversityTiming]:
    for task, function, kind in (
        ("figures", "run_figures", "JSON Lines"),
        ("figures", "run_figures", "Parquet"),
        ("figures and text", "run_with_text", "Parquet"),
        ("consensus", "run_consensus", "Parquet"),
    ):
        _note(f"{task}, from {kind}")
        arguments = (str(files["annotations"]), str(files[kind]))
        result = timing.isolated(f"harness.commands.speed.diversity:{function}", *arguments)
        yield DiversityTiming(task, kind, result.seconds, result.cpu_seconds, result.peak_rss_mib, result.value)


def run_figures(annotations: str, answers_file: str, text: bool = False) -> dict[str, float]:
    """Reads, validates and measures everything but self-BLEU, distinct-n and the Vendi score; returns seconds of each
    step."""
    start = time.perf_counter()
    subject = measure.SampledSet.of(load(Path(annotations), Path(annotations).parent), "lvis")
    read = time.perf_counter()
    ((_, answers),) = samples.load(Path(answers_file), subject.annotations, subject.categories).answers.items()
    ready = time.perf_counter()
    measure.figures(subject, *measure.diversity_tables(subject, answers, text))
    return {"annotations": read - start, "samples": ready - read, "figures": time.perf_counter() - ready}


def run_with_text(annotations: str, answers_file: str) -> dict[str, float]:
    """Runs `run_figures` with those three."""
    return run_figures(annotations, answers_file, text=True)


def run_consensus(annotations: str, answers_file: str) -> dict[str, float]:
    """Reads and validates, then clusters the mentions into detections; returns seconds of each step."""
    start = time.perf_counter()
    subject = measure.SampledSet.of(load(Path(annotations), Path(annotations).parent), "lvis")
    ((_, answers),) = samples.load(Path(answers_file), subject.annotations, subject.categories).answers.items()
    ready = time.perf_counter()
    consensus(answers.mentions, answers.samples)
    return {"read": ready - start, "consensus": time.perf_counter() - ready}


def compare_self_bleu(files: Mapping[str, Path], images: int) -> dict[str, float] | None:
    """Measures the seconds of ours and of sacrebleu's self-BLEU on the first images, and their largest difference;
    None without sacrebleu."""
    if find_spec("sacrebleu") is None:
        return None
    subject = measure.SampledSet.of(load(files["annotations"], files["annotations"].parent), "lvis")
    ((_, answers),) = samples.load(files["Parquet"], subject.annotations, subject.categories).answers.items()
    chosen = answers.mentions.image < images
    image, sample, name = (getattr(answers.mentions, column)[chosen] for column in ("image", "sample", "name"))
    sequences = NameSequences(image, sample, name, min(images, len(subject.truth.image_ids)), answers.samples)
    values: dict[str, Any] = {}
    tasks = {
        "own": lambda: values.update({"own": self_bleu(sequences)}),
        "sacrebleu": lambda: values.update(sacrebleu=reference_self_bleu(sequences)),
    }
    seconds = timing.medians(timing.interleaved(tasks, repeats=1, warm_up=0))
    return {
        "images": sequences.images,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "difference": float(np.max(np.abs(values["own"] - values["sacrebleu"]))),
    }


def reference_self_bleu(sequences: NameSequences) -> Any:
    """Computes self-BLEU of each image [I] with sacrebleu from every sample with at least one name; nan for fewer
    than two."""
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(tokenize="none", smooth_method="exp", effective_order=True, max_ngram_order=4, lowercase=False)
    texts: list[list[str]] = [["" for _ in range(sequences.samples)] for _ in range(sequences.images)]
    for image, sample, name in zip(sequences.image, sequences.sample, sequences.name, strict=True):
        texts[image][sample] += f" {name}"
    return np.array([_mean_bleu(bleu, [text for text in of_image if text]) for of_image in texts])


def _mean_bleu(bleu: Any, texts: list[str]) -> float:
    scores = [bleu.sentence_score(text, texts[:k] + texts[k + 1 :]).score / 100 for k, text in enumerate(texts)]
    return sum(scores) / len(scores) if len(scores) > 1 else float("nan")


# ---- what is reported --------------------------------------------------------------------------------------------


def from_document(document: Mapping[str, Any]) -> str:
    """Makes the tables from what `--output` wrote."""
    machine, shape = document["machine"], SampleSetSize(**document["shape"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"load {machine['load']}; {versions}",
        "",
        f"{shape}; goals for {SampleSetSize(20_000, 8, 10)} on two cores",
        "",
        "| measured | input | seconds | of which reading | CPU seconds | peak memory, MiB | goal |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    rows = [DiversityTiming(**row) for row in document["measurements"]]
    return "\n".join([*lines, *map(_line, rows), "", _reference_line(document["self_bleu"])])


def _line(row: DiversityTiming) -> str:
    reading = sum(seconds for stage, seconds in row.stages.items() if stage in ("annotations", "samples", "read"))
    return (
        f"| {row.task} | {row.input} | {row.seconds:.1f} | {reading:.1f} | {row.cpu_seconds:.1f} "
        f"| {row.peak_mib:,.0f} | {GOALS.get(row.task, '')} |"
    )


def _reference_line(comparison: Mapping[str, float] | None) -> str:
    if comparison is None:
        return "self-BLEU beside sacrebleu: not measured, sacrebleu is not installed"
    ours, reference = comparison["own_seconds"], comparison["sacrebleu_seconds"]
    return (
        f"self-BLEU of {comparison['images']:,.0f} images: {ours:.2f} s, by sacrebleu {reference:.2f} s "
        f"({reference / ours:.0f} times as long, largest difference {comparison['difference']:.1g})"
    )

"""Runs `detmodes codebook RUN --judge N`: a language model finds the errors of N answers of a finished run, and a table
says how far it agrees with the exact codebook.

The server comes from the command line and the environment alone (harness.training.stages.chat); what it is sent are
names and boxes, no pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harness.commands.results.codebook import HEADINGS, benchmark_of, finished_cells
from harness.metrics.diagnosis.codebook import sample_errors
from harness.metrics.diagnosis.judged_errors import (
    INSTRUCTION,
    Agreement,
    agreement,
    describe_answer,
    exact_errors,
    read_errors,
)
from harness.report.grids.grid import Grid, GridCell, number
from harness.report.results import load
from harness.suite.permissions import NOTHING, Permissions
from harness.training.stages.chat import ChatServer
from harness.types import Box, Category, Example, Mention, Parsed

Answer = tuple[Example, Parsed]


def judge(
    folder: Path,
    count: int,
    server: ChatServer,
    pattern: str | None = None,
    data: Path | None = None,
    permissions: Permissions = NOTHING,
) -> Grid:
    """Asks about `count` answers of the finished cells (of those whose id matches `pattern`), drawn at random, but the
    same ones each time: samples at the last step, at the suite's temperature.

    Raises ConfigError and DataError as `codebook.read`, and DetmodesError where the server does not answer.
    """
    results = load(folder)
    keys = finished_cells(results, pattern)
    benchmark = benchmark_of(folder, results, keys, data, permissions)
    examples = benchmark.split("val")
    answers = [
        answer
        for key in keys
        for answer in answers_of_cell(
            results.folders[key], examples, results.records[key].steps[-1], results.temperature
        )
    ]
    chosen = sorted(np.random.default_rng(0).permutation(len(answers))[:count].tolist())
    return grid(*judged([answers[index] for index in chosen], benchmark.categories, server))


def answers_of_cell(folder: Path, examples: Sequence[Example], step: int, temperature: float) -> Iterator[Answer]:
    """Reads the samples of a cell's tables back, image by image."""
    samples, mentions = (
        table[(table["step"] == step) & (table["temperature"] == temperature)]
        for table in (pd.read_parquet(folder / f"{name}.parquet") for name in ("samples", "mentions"))
    )
    mentioned: dict[tuple[int, int], list[Mention]] = {}
    for line in mentions.sort_values("position").to_dict("records"):
        category = None if pd.isna(line["category_id"]) else int(line["category_id"])
        mention = Mention(str(line["name"]), category, Box(*(float(line[side]) for side in "xywh")))
        mentioned.setdefault((int(line["image_id"]), int(line["sample"])), []).append(mention)
    by_id = {example.image_id: example for example in examples}
    for line in samples.to_dict("records"):
        key = int(line["image_id"]), int(line["sample"])
        yield by_id[key[0]], Parsed(tuple(mentioned.get(key, ())), int(line["malformed"]), bool(line["truncated"]))


def judged(
    answers: Sequence[Answer], categories: Sequence[Category], server: ChatServer
) -> tuple[list[Agreement], int, int]:
    """Asks about each answer; returns the agreement by kind, the number of answers, and how many of the errors that the
    server gave were of no use."""
    names = {category.id: category.names for category in categories}
    pairs, refused = [], 0
    for example, parsed in answers:
        ((errors,),) = sample_errors([example], [[parsed]])
        text = server.ask(INSTRUCTION, describe_answer(example, parsed, names))
        valid, useless = read_errors(text, len(parsed.mentions), len(example.instances))
        pairs.append((exact_errors(errors), {error.compared for error in valid}))
        refused += useless
    return agreement(pairs), len(answers), refused


def grid(lines: Sequence[Agreement], answers: int, refused: int) -> Grid:
    """Makes the table."""
    rows = tuple(
        (
            GridCell(HEADINGS[line.kind]),
            *(GridCell(f"{count:,}", count) for count in (line.exact, line.judged, line.both)),
            *(GridCell(number(share), share) for share in (line.precision, line.recall)),
        )
        for line in lines
    )
    note = (
        f"Of {answers:,} answers. Exact: by the codebook. Judged: by the language model. Both: of the same mention "
        f"(missed: object; last three: answer). {refused:,} of its errors did not have the form that was asked for."
    )
    headings = ("error", "exact", "judged", "both", "precision", "recall")
    return Grid("Errors as a language model judges them", headings, rows, words=1, note=note)

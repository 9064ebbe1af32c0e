"""Writes the notes beside the tables: how to read them, and how to make them again (which code, which command)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from harness.metrics.stats import LEVEL, REPLICATES
from harness.report.chains import collapses
from harness.report.grids.grid import UNDEFINED
from harness.report.results import Results, once
from harness.report.rows import table


def command(results: Results) -> str:
    """Returns the lines to type: check out the commit, run the suite with the same seeds on the same kind of device."""
    made = next(iter([*results.records.values(), *results.failed.values()]), None)
    if made is None:
        return f"detmodes run {results.suite.suite}"
    seeds = ",".join(map(str, results.suite.seeds))
    commit = made.code.get("commit")
    checkout = f"git checkout {commit}" if commit else f"# {code_text(made.code)}"
    changes = "".join(f" --set {shlex.quote(change)}" for change in results.suite.overrides)
    device = made.device.get("type", "auto")
    return f"{checkout}\ndetmodes run {results.suite.suite} --seeds {seeds}{changes} --device {device}"


def code_text(code: dict[str, object]) -> str:
    """Names the code version, e.g. "detmodes 0.1.0, commit 0123456789ab (dirty)"."""
    if code.get("commit") is None:
        return f"detmodes {code.get('version')}, no commit"
    dirty = " (dirty: tracked files differ from it)" if code.get("dirty") else ""
    return f"detmodes {code.get('version')}, commit {str(code['commit'])[:12]}{dirty}"


@once
def caption(results: Results) -> list[str]:
    """Lists what a reader must know about the tables, one statement a line."""
    finished = list(results.records.values())
    suite, sample = results.suite, results.suite.sample
    lines = [
        f"{results.images:,} validation images; K = {sample.samples} samples at temperature {sample.temperature:g}; "
        f"seeds {', '.join(map(str, suite.seeds))}.",
        _correctness(results),
        f"± is half of the {LEVEL:.0%} interval of the seed mean: {REPLICATES:,} bootstrap replicates of the images "
        "(paired between rows) plus the variance between seeds over their number, t with seeds - 1 degrees of freedom "
        f"or more, the less the seeds' share of the variance is. {UNDEFINED} is undefined.",
    ]
    if suite.objectives:
        lines.append(
            f"Bold is the best of a model's objectives, where the {LEVEL:.0%} intervals of its paired differences to "
            "all the others exclude a tie."
        )
    rows = table(results)
    if len(suite.seeds) > 1 and any(row.source.once for row in rows):
        lines.append(
            "The base and the oracles, in which nothing is trained, are sampled once for all seeds: their intervals "
            "cover the choice of images only."
        )
    if any(len(row.seeds) == 1 and (not row.source.once or len(suite.seeds) == 1) for row in rows):
        lines.append("With one seed an interval covers the choice of images only, not the spread between seeds.")
    lines.append(
        f"Code: {_distinct(code_text(record.code) for record in finished)}; "
        f"device {_distinct(_device(record.device) for record in finished)}."
    )
    lines += _tuning(results)
    lines += _left_out(results)
    lines += _unwritable(results)
    lines += _cut_targets(results)
    lines += _read_leniently(results)
    lines += [
        f"Warning: the samples of {key} have collapsed: {entropy:.3g} nats per token at step {step}, {first:.3g} when "
        "the last stage began."
        for key, step, entropy, first in collapses(results)
    ]
    lines += [f"Failed: {key}: {record.error}" for key, record in results.failed.items()]
    if results.missing:
        lines.append(f"Missing: {'; '.join(map(str, results.missing))}.")
    return lines


def _tuning(results: Results) -> list[str]:
    """Describes how the learning rates were chosen, and what each candidate reached."""
    tuning = results.tuning
    if tuning is None:
        return []
    candidates = ", ".join(f"{lr:g}" for lr in tuning.candidates)
    steps = "as many steps as in the table" if tuning.steps is None else f"{tuning.steps} steps"
    figure = "highest AP" if tuning.criterion == "AP" else "lowest held-out loss"
    rows = "; ".join(
        f"{row.label} {row.chosen:g} ({', '.join(UNDEFINED if x is None else f'{x:.3f}' for x in row.values)})"
        for row in tuning.rows
    )
    return [
        f"Learning rates: of {candidates} the one with the {figure} on the calibration split, which no table shows, "
        f"after {steps} with seed {tuning.seed}: {rows}."
    ]


def _correctness(results: Results) -> str:
    """Describes the rules that decide which answers are right."""
    if results.suite.task == "caption":
        return "Captions: a mentioned category is right as often as the image has instances of it."
    evaluators = _distinct(" ".join(record.evaluator.values()) for record in results.records.values())
    return f"Scores: {_score_sources(results)}; evaluator {evaluators}."


def _score_sources(results: Results) -> str:
    """Names the sources of scores, e.g. "category (oracles: constant)"."""

    def of(oracles: bool) -> str:
        return _distinct(r.score_source for r in results.records.values() if (r.role == "oracle") == oracles)

    return of(False) if of(True) in (of(False), UNDEFINED) else f"{of(False)} (oracles: {of(True)})"


def _left_out(results: Results) -> list[str]:
    """Counts the pictures that were skipped, by split; empty where all could be read."""
    skipped: set[str] = set()
    for record in results.records.values():
        by_split: Any = record.data.get("left_out", {})
        for split, ids in by_split.items():
            missing = (record.left_out_pictures or {}).get(split, {}).get("missing", 0)
            skipped.add(f"{len(ids)} of {split}{f' ({missing} missing)' if missing else ''}")
    return [f"Pictures that cannot be read and were left out: {', '.join(sorted(skipped))}."] if skipped else []


def _unwritable(results: Results) -> list[str]:
    """Counts the training objects that a model cannot write, for each model that has some."""
    counts = {r.model_label: r.unwritable_objects for r in results.records.values() if r.unwritable_objects}
    return [
        f"No targets of {model}: {lost['objects']:,} objects of {lost['images']:,} training images, whose boxes have "
        "no area in its coordinates."
        for model, lost in counts.items()
    ]


def _cut_targets(results: Results) -> list[str]:
    """How many targets do not fit into an answer, of the cell with most of them; nothing where all do."""
    most = max((record.cut_targets or 0.0 for record in results.records.values()), default=0.0)
    limit = results.suite.sample.max_tokens
    return [f"Up to {most:.1%} of the targets are longer than an answer may be (sample.max_tokens: {limit})."] * (
        most > 0
    )


def _read_leniently(results: Results) -> list[str]:
    """How many mentions were read leniently, of the cell with most of them; nothing where there is none."""
    last = [evaluation for record in results.records.values() for evaluation in record.evaluations[-1:]]
    most = max((evaluation.diversity.get("lenient_rate") or 0.0 for evaluation in last), default=0.0)
    return [f"Read leniently (JSON that is not quite as it was trained): up to {most:.1%} of the mentions."] * (
        most > 0
    )


def _device(device: dict[str, object]) -> str:
    return " ".join(str(device[key]) for key in ("type", "name", "precision") if key in device)


def _distinct(values: Iterable[str]) -> str:
    """Lists each different value once, in order: if there are several, all are shown."""
    return " / ".join(dict.fromkeys(values)) or UNDEFINED

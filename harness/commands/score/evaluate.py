"""Runs `detmodes evaluate`: two files in; the official figures, their intervals, and diagnostics of a generative
detector out.

Where only the official figures are requested, a short cut gives the same ones sooner (`benchmarks.evaluators.fast`).

Everything is computed before anything is written, and every file is written completely or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.commands.score.documents import Json, describe_intervals, subtract, write_csv
from harness.commands.score.request import ScoreRequest, find_path_problems, is_writable
from harness.errors import ConfigError, unknown
from harness.system.files import write_text
from harness.system.terminal import make_console, screen, tell

if TYPE_CHECKING:  # at run time where they are used: what one evaluation does not need, it does not wait for
    from benchmarks.evaluators.fast import FastEvaluation
    from benchmarks.readers.annotations import Annotations
    from benchmarks.readers.detection_parts import RowTable, SharedDecoder
    from harness.metrics.detection.rules import Protocol
    from harness.metrics.diagnosis.calibration import Reliability
    from harness.types import Detections, Evaluation

PACKAGES = ("hotcoco", "lvis", "pycocotools", "numpy")
COLUMNS = ("name", "frequency", "AP", "instances", "images", "detections")
"""Columns of the table by category, after the id."""

Say = Callable[[str], None]
"""A function that receives messages about progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest(ScoreRequest):
    """The options of `detmodes evaluate`; without `bootstrap`, REPLICATES are used for the interval of a comparison.

    detections    the detections file
    engine        the protocol's fast engine, or its reference
    compare       a second detections file for the same annotations
    diagnose      whether to report more than the official figures
    plots         folder for the reliability diagram
    """

    detections: Path
    engine: str = "fast"
    compare: Path | None = None
    diagnose: bool = True
    plots: Path | None = None


def command(quiet: bool, **options: Any) -> None:
    """Runs the verb. Options are the fields of EvaluationRequest; `quiet`: no progress, only the tables."""
    request = EvaluationRequest(**options)
    # Decoding first: it can only be helped while this process has one thread. Then a word, before the long imports.
    with start_decoding(request) as decoder, progress(quiet) as say:
        say("starting")
        check(request)
        result, reliability = evaluate(request, say, decoder)
    write(request, result, reliability)
    for warning in result["warnings"]:
        tell(f"warning: {warning}")
    if request.plots is not None and reliability is None:
        tell(f"no reliability diagram: {result['generative']['calibration']['reason']}")
    from harness.commands.score.evaluate_tables import tables  # late: see above

    screen().print(tables(result, *(str(path) for path in _inputs(request))))


@contextmanager
def start_decoding(request: EvaluationRequest) -> Iterator[SharedDecoder | None]:
    """Starts decoding the detections in parallel, if that is possible and only figures are requested."""
    from benchmarks.readers.detection_parts import SharedDecoder

    if not _wants_figures_only(request) or request.detections.suffix.lower() != ".json":
        yield None
        return
    try:
        decoder = SharedDecoder(request.detections)
    except (OSError, ValueError):  # told by the reader
        yield None
        return
    with decoder:
        decoder.start()
        yield decoder


# ---- what was asked for ------------------------------------------------------------------------------------------


def check(request: EvaluationRequest) -> None:
    """Raises ConfigError with every mistake that can be noticed before a file is read, so that hours of work do not
    fail on a bad path."""
    files = {"--output": request.output, "--per-category": request.per_category}
    problems = [
        *_find_engine_problems(request),
        *find_path_problems(_inputs(request), files),
        *_find_folder_problems(request.plots),
    ]
    if request.plots is not None and not request.diagnose:
        problems.append("--plots draws the calibration, which --no-diagnostics leaves out")
    if problems:
        raise ConfigError(*problems)


def _find_engine_problems(request: EvaluationRequest) -> Iterator[str]:
    from benchmarks.evaluators.evaluator import list_engines, list_protocols

    if request.protocol not in list_protocols():
        yield unknown("protocol", request.protocol, list_protocols())
    elif request.engine not in (engines := list_engines(request.protocol)):
        available = ", ".join(engines)
        yield f"engine {request.engine!r} does not know the protocol {request.protocol!r}; available: {available}"


def _find_folder_problems(folder: Path | None) -> Iterator[str]:
    if folder is not None and not is_writable(next(p for p in (folder, *folder.absolute().parents) if p.exists())):
        yield f"--plots {folder}: expected a folder that can be written"


def _inputs(request: EvaluationRequest) -> list[Path]:
    return [path for path in (request.annotations, request.detections, request.compare) if path is not None]


# ---- what comes of it --------------------------------------------------------------------------------------------


def evaluate(
    request: EvaluationRequest, say: Say = lambda stage: None, decoder: SharedDecoder | None = None
) -> tuple[Json, Reliability | None]:
    """Returns everything that `--output` holds (JSON values only, None where undefined), and what `--plots` draws.

    decoder: one that has started with the detections file. Raises DataError for an invalid file.
    """
    from benchmarks.readers.detection_parts import NotPlainError

    if _wants_figures_only(request):
        try:
            return _evaluate_fast(request, say, decoder), None
        except NotPlainError:
            pass  # the careful way knows what is wrong, or that nothing is
    return _evaluate_carefully(request, say)


def _wants_figures_only(request: EvaluationRequest) -> bool:
    extras = (request.diagnose, request.bootstrap is not None, request.compare is not None)
    return request.engine == "fast" and not any(extras)


def _evaluate_fast(request: EvaluationRequest, say: Say, decoder: SharedDecoder | None) -> Json:
    from benchmarks.evaluators import fast
    from benchmarks.readers import detections as detection_files

    def read_table() -> RowTable:
        return detection_files.load_table(request.detections) if decoder is None else decoder.finish()

    result = fast.evaluate_files(request.annotations, read_table, request.protocol, say)
    return _document(request, result.evaluation, _per_category_fast(result), warnings=list(map(str, result.suspicions)))


def _evaluate_carefully(request: EvaluationRequest, say: Say) -> tuple[Json, Reliability | None]:
    from benchmarks.evaluators import diagnostics, evaluator, intervals
    from benchmarks.readers import annotations as annotation_files
    from benchmarks.suspicions import find_in_annotations, find_in_detections

    say("reading annotations")
    truth = annotation_files.load_for_evaluation(request.annotations, request.style)
    say("reading detections")
    detections = _read(request.detections, truth)
    other = None if request.compare is None else _read(request.compare, truth)
    say("evaluating")
    evaluation = evaluator.evaluate(truth, detections, request.protocol, request.engine)
    suspicions = [*find_in_annotations(truth), *find_in_detections(detections, truth)]
    extras: Json = {"warnings": list(map(str, suspicions))}
    if other is not None:
        extras["compare"] = _compare(request, truth, detections, other, evaluation.metrics, say)
    if request.bootstrap is not None:
        say(f"intervals: {request.bootstrap} replicates")
        drawn = intervals.bootstrap(truth, detections, request.protocol, request.bootstrap)
        extras["intervals"] = describe_intervals(drawn)
    predicted = diagnostics.count_predicted(truth, detections, request.protocol)
    diagnosis = diagnostics.NOTHING
    if request.diagnose:
        diagnosis = diagnostics.diagnose(truth, detections, request.protocol, evaluation, predicted, say)
        extras |= {"errors": diagnosis.errors, "generative": diagnosis.generative}
    per_category = _per_category(truth, request.protocol, evaluation, predicted)
    return _document(request, evaluation, per_category, **extras), diagnosis.reliability


def _document(request: EvaluationRequest, evaluation: Evaluation, per_category: Json, **extras: Any) -> Json:
    """Assembles the result; `extras`: warnings; intervals, errors, generative and compare if they were requested."""
    from harness.system.provenance.versions import package_versions

    return {
        "protocol": request.protocol,
        "engine": request.engine,
        "metrics": dict(evaluation.metrics),
        "per_category": per_category,
        "intervals": {},
        "errors": {},
        "generative": {},
        "warnings": [],
        **extras,
        "versions": {"detmodes": __version__, **package_versions(PACKAGES)},
    }


def _read(path: Path, truth: Annotations) -> Detections:
    from benchmarks.readers import detections as detection_files

    detections = detection_files.load(path)
    detection_files.check(detections, truth, where=f"{path}: detections")
    return detections


def _compare(
    request: EvaluationRequest,
    truth: Annotations,
    detections: Detections,
    other: Detections,
    metrics: Mapping[str, float | None],
    say: Say,
) -> Json:
    """Returns the other file's official figures; difference: ours minus theirs, and the interval of the paired
    difference."""
    from benchmarks.evaluators import evaluator, intervals
    from harness.metrics.stats import REPLICATES

    say("evaluating the other detections")
    theirs = evaluator.evaluate(truth, other, request.protocol, request.engine).metrics
    replicates = request.bootstrap or REPLICATES
    say(f"interval of the difference: {replicates} replicates")
    difference = intervals.compare(truth, detections, other, request.protocol, replicates)
    return {
        "metrics": dict(theirs),
        "difference": {name: subtract(ours, theirs[name]) for name, ours in metrics.items()},
        "intervals": describe_intervals(difference),
    }


def _per_category(truth: Annotations, protocol: Protocol, evaluation: Evaluation, predicted: Mapping[int, int]) -> Json:
    """Counts by category id: objects, images with one, and detections; all after the official rules of cap and area."""
    from benchmarks.evaluators import diagnostics

    instances, images = diagnostics.count_annotated(truth, protocol)
    return {
        str(category.id): {
            "name": category.name,
            "frequency": category.frequency,
            "AP": evaluation.per_category[category.id],
            "instances": instances[category.id],
            "images": images[category.id],
            "detections": predicted[category.id],
        }
        for category in truth.categories
    }


def _per_category_fast(result: FastEvaluation) -> Json:
    """Returns the same from columns."""
    counts = zip(result.instances.tolist(), result.images.tolist(), result.detections.tolist(), strict=True)
    return {
        str(category.id): {
            "name": category.name,
            "frequency": category.frequency,
            "AP": result.evaluation.per_category[category.id],
            "instances": instances,
            "images": images,
            "detections": detections,
        }
        for category, (instances, images, detections) in zip(result.categories, counts, strict=True)
    }


# ---- files and progress ------------------------------------------------------------------------------------------


def write(request: EvaluationRequest, result: Json, reliability: Reliability | None) -> None:
    """Writes the requested files. Their contents are made before the first is written."""
    files = {
        request.output: json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        request.per_category: write_csv(("id", *COLUMNS), _category_rows(result["per_category"])),
    }
    for path, text in files.items():
        if path is not None:
            write_text(path, text)
    if request.plots is not None and reliability is not None:
        from harness.commands.score import reliability_plot  # late: it loads matplotlib

        reliability_plot.reliability_diagram(reliability, request.plots)


def _category_rows(per_category: Mapping[str, Json]) -> list[Json]:
    """Returns the table by category with the id as a column."""
    return [{"id": category_id, **row} for category_id, row in per_category.items()]


@contextmanager
def progress(quiet: bool) -> Iterator[Say]:
    """Returns a function that prints on stderr what is being done, if it is a terminal."""
    console = make_console(stderr=True, quiet=quiet)
    with console.status("") as status:
        yield lambda stage: status.update(stage)

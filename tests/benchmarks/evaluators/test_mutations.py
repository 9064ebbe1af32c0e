"""Valid files, damaged at random: each ends in figures or in one line that names the file, never in a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from benchmarks.evaluators import evaluator, fast
from benchmarks.readers import annotations as annotation_files
from benchmarks.readers import detections
from benchmarks.readers.annotations import Style
from benchmarks.readers.detection_parts import NotPlainError
from harness.errors import DataError
from harness.types import Evaluation
from tests.benchmarks.evaluators.mutations import PROTOCOLS, Files, mutation, originals


def run(files: Files, folder: Path, engine: str) -> Evaluation:
    """From the files to the figures, as the command goes."""
    annotated, detected = folder / "truth.json", folder / f"results{files.suffix}"
    annotated.write_bytes(files.truth)
    detected.write_bytes(files.results)
    loaded = annotation_files.load_for_evaluation(annotated, files.style)
    rows = detections.load(detected)
    detections.check(rows, loaded, where=f"{detected}: detections")
    return evaluator.evaluate(loaded, rows, files.protocol, engine)


def short_cut(files: Files, folder: Path) -> Evaluation | None:
    """What the short cut says of the files that `run` has written; None where it leaves them to the careful way."""
    table = folder / f"results{files.suffix}"
    try:
        evaluated = fast.evaluate_files(folder / "truth.json", lambda: detections.load_table(table), files.protocol)
    except (NotPlainError, DataError):
        return None
    return evaluated.evaluation


def outcome(files: Files, folder: Path) -> Evaluation | str:
    """Figures, on which both engines and the short cut agree, or a good error's text; else AssertionError."""
    careful = careful_outcome(files, folder)
    if isinstance(careful, Evaluation):
        assert short_cut(files, folder) in (careful, None)
    else:
        assert short_cut(files, folder) is None, careful
    return careful


def careful_outcome(files: Files, folder: Path) -> Evaluation | str:
    try:
        fast, reference = (run(files, folder, engine) for engine in evaluator.list_engines(files.protocol))
    except DataError as error:
        text = str(error)
        assert text.startswith((f"{folder}/truth.json: ", f"{folder}/results{files.suffix}: ")), text
        assert text.isprintable(), repr(text)
        assert len(text) < len(str(folder)) + 400, text
        return text
    assert all(value is None or 0 <= value <= 1 for value in fast.metrics.values()), fast
    assert all(value is None or 0 <= value <= 1 for value in fast.per_category.values()), fast
    assert close(fast, reference), (fast, reference)
    return fast


def close(a: Evaluation, b: Evaluation) -> bool:
    pairs = [(a.metrics[k], b.metrics[k]) for k in a.metrics] + [
        (a.per_category[k], v) for k, v in b.per_category.items()
    ]
    return all(x == y or (x is not None and y is not None and abs(x - y) < 1e-9) for x, y in pairs)


def failures(seeds: range, folder: Path) -> Iterator[str]:
    """What went wrong, by seed."""
    plain: dict[str, Evaluation | str] = {}
    for seed in seeds:
        files, same = mutation(seed)
        try:
            ended = outcome(files, folder)
            if same:
                if files.protocol not in plain:
                    plain[files.protocol] = outcome(originals(files.style, files.protocol), folder)
                assert ended == plain[files.protocol], ended
        except Exception as error:  # whatever it is: that is what is tested
            yield f"mutation {seed}: {type(error).__name__}: {error}"


@pytest.mark.parametrize("protocol", get_args(evaluator.Protocol))
def test_the_unchanged_files_have_figures_worth_comparing(tmp_path: Path, protocol: evaluator.Protocol) -> None:
    style: Style = "coco" if protocol == "coco" else "lvis"
    by_suffix = [outcome(originals(style, protocol, suffix), tmp_path) for suffix in (".json", ".npz", ".parquet")]
    assert isinstance(by_suffix[0], Evaluation)
    assert 0.1 < (by_suffix[0].metrics["AP"] or 0) < 0.9
    assert by_suffix[0] == by_suffix[1] == by_suffix[2]


def test_mutations_are_of_every_kind(tmp_path: Path) -> None:
    """Else the property would hold for want of trying: many are refused, many are not, many ways of each."""
    outcomes = [outcome(mutation(seed)[0], tmp_path) for seed in range(2000, 2200)]
    texts = {text.split("expected")[0] for text in outcomes if isinstance(text, str)}
    figures = {str(evaluation.metrics) for evaluation in outcomes if isinstance(evaluation, Evaluation)}
    assert len(texts) > 20
    assert len(figures) > 10


def test_50_mutations_end_in_figures_or_in_one_line(tmp_path: Path) -> None:
    assert list(failures(range(50), tmp_path)) == []


def test_the_short_cut_is_taken_where_nothing_is_unusual(tmp_path: Path) -> None:
    for style, protocols in PROTOCOLS.items():
        for protocol in protocols:
            for suffix in (".json", ".npz", ".parquet"):
                files = originals(style, protocol, suffix)
                assert run(files, tmp_path, "fast") == short_cut(files, tmp_path)


@pytest.mark.slow
def test_1000_mutations_end_in_figures_or_in_one_line(tmp_path: Path) -> None:
    assert list(failures(range(50, 1050), tmp_path)) == []

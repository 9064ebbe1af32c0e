"""`detmodes speed diversity` on a tiny set: what it generates, measures and reports; and that a disagreement shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.readers import samples
from benchmarks.readers.annotations import load
from harness import registry
from harness.commands.score import measure
from harness.commands.score.measure import SampledSet
from harness.commands.speed import diversity
from harness.commands.speed.diversity import SampleSetSize
from harness.errors import ConfigError
from harness.metrics.samples.mentions import Answers
from harness.system import timing

SHAPE = SampleSetSize(40, 4, 6)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return diversity.generate(tmp_path_factory.mktemp("set"), SHAPE, 0)


@pytest.fixture(scope="module")
def subject(files: dict[str, Path]) -> SampledSet:
    return SampledSet.of(load(files["annotations"], Path()), "lvis")


def answers(files: dict[str, Path], subject: SampledSet, kind: str) -> Answers:
    ((temperature, of_temperature),) = samples.load(
        files[kind], subject.annotations, subject.categories
    ).answers.items()
    assert temperature == 1.0
    return of_temperature


def test_both_kinds_of_file_hold_the_same_samples(files: dict[str, Path], subject: SampledSet) -> None:
    lines, cell = (answers(files, subject, kind).mentions for kind in ("JSON Lines", "Parquet"))
    assert len(lines) == 40 * 4 * 6
    in_vocabulary = lines.category >= 0  # unknown names are numbered as they come
    for column in ("image", "sample", "category", "boxes", "score"):
        np.testing.assert_array_equal(getattr(lines, column), getattr(cell, column))
    np.testing.assert_array_equal(lines.name[in_vocabulary], cell.name[in_vocabulary])


def test_a_generated_set_has_something_of_everything(files: dict[str, Path], subject: SampledSet) -> None:
    """Figures that are all 0 or undefined would cost nothing to compute."""
    figures = measure.figures(subject, *measure.diversity_tables(subject, answers(files, subject, "Parquet")))
    for name in ("recall", "name_diversity", "unknown_name_rate", "hallucination_rate", "duplicate_rate", "self_bleu"):
        assert 0.001 < figures[name][0] < 0.999, name
    assert figures["box_spread"][0] > 0
    assert figures["vendi"][0] > 1


def test_ours_is_sacrebleus(files: dict[str, Path]) -> None:
    pytest.importorskip("sacrebleu")
    compared = diversity.compare_self_bleu(files, 10)
    assert compared is not None
    assert compared["images"] == 10
    assert compared["difference"] < 1e-9
    assert compared["own_seconds"] > 0


def call_here(reference: str, *arguments: Any) -> timing.Result:
    """Instead of `timing.isolated`: without a process, of which several take half a minute to start."""
    return timing.Result(1.0, 2.0, 100.0, registry.resolve(reference)(*arguments))


@pytest.mark.parametrize("isolated", [call_here, pytest.param(timing.isolated, marks=pytest.mark.slow)])
def test_the_command_measures_everything(
    isolated: Callable[..., timing.Result],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "isolated", isolated)
    output = tmp_path / "speed.json"
    assert diversity.command(40, 4, 6, 0, output) == 0
    document = json.loads(output.read_text())
    assert [(row["task"], row["input"]) for row in document["measurements"]] == [
        ("figures", "JSON Lines"),
        ("figures", "Parquet"),
        ("figures and text", "Parquet"),
        ("consensus", "Parquet"),
    ]
    assert all(min(row["stages"].values()) > 0 and row["peak_mib"] > 1 for row in document["measurements"])
    table = capsys.readouterr().out
    assert table.strip() == diversity.from_document(document)
    assert "40 images x 4 samples x 6 mentions" in table
    assert "| figures and text | Parquet |" in table


def test_the_measured_figures_have_text_only_where_they_should(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    tables = measure.diversity_tables

    def spy(subject: SampledSet, answers: Answers, text: bool) -> Any:
        given.append(text)
        return tables(subject, answers, text)

    monkeypatch.setattr(measure, "diversity_tables", spy)
    for function in (diversity.run_figures, diversity.run_with_text):
        function(str(files["annotations"]), str(files["Parquet"]))
    assert given == [False, True]


def test_an_output_without_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/a\.json: expected a place in an existing folder"):
        diversity.command(40, 4, 6, 0, tmp_path / "nowhere" / "a.json")


MACHINE = {"processor": "P", "cores": 2, "memory_gib": 8.0, "load": 0.1, "packages": {"numpy": "2"}}


def test_rows_tell_reading_from_measuring() -> None:
    row = {"task": "figures", "input": "Parquet", "seconds": 9.0, "cpu_seconds": 8.0, "peak_mib": 1234.0}
    stages = {"annotations": 2.0, "samples": 1.5, "figures": 5.5}
    document = {"machine": MACHINE, "shape": {"images": 1, "samples": 2, "mentions": 3}, "self_bleu": None}
    text = diversity.from_document({**document, "measurements": [{**row, "stages": stages}]})
    assert "| figures | Parquet | 9.0 | 3.5 | 8.0 | 1,234 | 20 s, 2,000 MiB |" in text
    assert text.endswith("self-BLEU beside sacrebleu: not measured, sacrebleu is not installed")
    compared = {"images": 500, "own_seconds": 0.5, "sacrebleu_seconds": 20.0, "difference": 2e-17}
    text = diversity.from_document({**document, "measurements": [], "self_bleu": compared})
    assert "0.50 s, by sacrebleu 20.00 s (40 times as long, largest difference 2e-17)" in text


@pytest.mark.parametrize(("difference", "code"), [(1e-7, 0), (1e-5, 1), (float("nan"), 1)])
def test_a_disagreement_with_sacrebleu_fails(
    difference: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = {"images": 1, "own_seconds": 1.0, "sacrebleu_seconds": 1.0, "difference": difference}
    monkeypatch.setattr(diversity, "_measurements", lambda files: [])
    monkeypatch.setattr(diversity, "compare_self_bleu", lambda *arguments: compared)
    assert diversity.command(2, 2, 2, 0, None) == code
    assert ("self-BLEU differs" in capsys.readouterr().err) == bool(code)

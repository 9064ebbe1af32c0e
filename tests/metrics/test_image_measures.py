"""Measures of other packages: found, refused, computed for each image, and shown where the package is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness import extensions
from harness.commands.models import listing
from harness.errors import ConfigError, DataError
from harness.evaluation.evaluate import measure
from harness.evaluation.scored_samples import EvaluationSettings
from harness.metrics.image_measures import (
    IMAGE_MEASURES,
    ImageMeasure,
    Judged,
    described_measures,
    image_columns,
    measure_problems,
)
from harness.metrics.samples.aggregate import mean_over_images
from harness.metrics.samples.matching import verify
from harness.metrics.samples.mentions import Answers, Floats, Truth, answers_of, truth_of
from harness.report.publish import publish
from harness.report.renderers import html, latex, text
from harness.report.results import load
from harness.suite.load import parse
from harness.suite.schema import SampleSettings
from harness.system.files import sha256
from harness.types import Parsed
from tests.support import fake_cells, small
from tests.support.packages import write_package

NUMBERS = count()
Install = Callable[..., str]
MEASURE = """
import numpy as np
from harness.metrics.image_measures import ImageMeasure

PART = ImageMeasure(lambda truth, answers, v: np.arange(len(truth.image_ids)) + 0.5, meaning="Where it stands.")
"""
MEANING = "Mentions of a sample."


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a module as a measure of another package; returns how errors call it."""

    def put(source: str, name: str = "theirs") -> str:
        module = f"their_measure_{next(NUMBERS)}"  # never imported before
        write_package(tmp_path, module, source, extensions.GROUPS["measure"], f"{name} = {module}:PART")
        monkeypatch.syspath_prepend(str(tmp_path))
        return f"measure {name} ({module} 0.7, entry point {name} = {module}:PART)"

    return put


def judged(images: int = 2) -> tuple[Truth, Judged]:
    examples = small.benchmark().split("val")[:images]
    truth = truth_of(examples, small.benchmark().categories)
    answers = answers_of([[Parsed((), 0, False)] * 2 for _ in examples], small.benchmark().categories)
    return truth, Judged(answers, verify(truth, answers.mentions))


def suite_with(**changes: Any) -> dict[str, Any]:
    return {"suite": "s", "benchmark": "shapes", "models": ["open_flamingo"], "seeds": [0], **changes}


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AP", "recall", "lenient_rate", "AP_gain", "normalised_name_diversity"])
def test_a_name_of_ours_is_refused(name: str, install: Install) -> None:
    assert measure_problems(name) == [f"measure {name}: is one of detmodes itself, which every cell has: leave it out"]
    install(MEASURE, name)
    (problem,) = measure_problems(name)
    assert problem.startswith(
        f"measure {name}: expected one part of this name, got those of detmodes and their_measure"
    )


def test_a_suite_tells_every_mistake_about_measures(install: Install) -> None:
    install(MEASURE)
    assert parse(suite_with(measures=["theirs"]), "s.yaml").measures == ("theirs",)
    for names, complaint in (
        (["thiers"], "measures: unknown measure 'thiers', did you mean 'theirs'"),
        (["recall"], "measures: measure recall: is one of detmodes itself"),
        (["theirs", "theirs"], "expected different measures, got ['theirs', 'theirs']"),
        ("theirs", "measures: "),
    ):
        with pytest.raises(ConfigError) as caught:
            parse(suite_with(measures=names), "s.yaml")
        assert complaint in str(caught.value)


def test_only_what_may_be_named_is_offered(install: Install) -> None:
    assert measure_problems("recal") == [
        "measure recal: no package that is installed here brings it (entry points detmodes.measures)"
    ]
    install(MEASURE)
    assert measure_problems("recal") == ["unknown measure 'recal'; available: theirs"]


def test_a_name_that_cannot_be_a_column_is_refused(install: Install) -> None:
    install(MEASURE, "a@2")
    assert measure_problems("a@2") == ["measure a@2: expected a name such as my_measure"]


def test_a_hypothesis_may_be_about_one_that_the_suite_names(install: Install) -> None:
    install(MEASURE)
    stated = {"id": "H", "claim": "c", "metric": "theirs", "a": "base", "b": "oracle-uniform"}
    assert parse(suite_with(measures=["theirs"], hypotheses=[stated]), "s.yaml").hypotheses[0].metric == "theirs"
    with pytest.raises(ConfigError, match="hypothesis H: unknown metric 'theirs'"):
        parse(suite_with(hypotheses=[stated]), "s.yaml")


def test_one_about_boxes_is_refused_for_captions(install: Install) -> None:
    install(MEASURE.replace("meaning=", "needs_boxes=True, meaning="))
    stated = {"id": "H", "claim": "c", "metric": "theirs", "a": "base", "b": "oracle-uniform"}
    with pytest.raises(ConfigError, match="has no boxes, so theirs is undefined"):
        parse(suite_with(task="caption", measures=["theirs"], hypotheses=[stated]), "s.yaml")


def test_lists_show_it_and_what_is_wrong_with_others(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    origin = install(MEASURE)
    install("raise ValueError('no')", "broken")
    listing.show("measures")
    shown = capsys.readouterr().out
    assert "theirs           Where it stands." in shown
    assert origin in shown
    assert "importing it failed: ValueError: no" in shown


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        ("np.zeros(3)", "ValueError: expected one number for each image, [2]; got [3]"),
        ("np.array([1.0, np.inf])", "expected finite numbers, or nan where undefined; got inf"),
        ("1 / 0", "ZeroDivisionError: division by zero (MODULE.py, line 5)"),
    ],
)
def test_what_is_wrong_with_its_values_names_the_package(install: Install, returned: str, complaint: str) -> None:
    origin = install(MEASURE.replace("np.arange(len(truth.image_ids)) + 0.5", returned))
    with pytest.raises(ConfigError) as caught:
        image_columns(["theirs"], *judged(), None)
    module = origin.partition("(")[2].split()[0]
    assert str(caught.value).startswith(f"{origin}: computing it failed: ")
    assert complaint.replace("MODULE", module) in str(caught.value)


def test_it_is_undefined_without_what_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(truth: Truth, *_: Any) -> Floats:
        return np.ones(len(truth.image_ids))

    truth, samples = judged()
    for changes, greedy, boxed in (({"of": "greedy"}, None, True), ({"needs_boxes": True}, samples, False)):
        part = ImageMeasure(ones, meaning="m", **changes)
        monkeypatch.setitem(IMAGE_MEASURES.ours, "x", part)
        assert np.isnan(image_columns(["x"], truth, samples, greedy, boxed)["x"]).all()
        assert (image_columns(["x"], truth, samples, samples, True)["x"] == 1).all()


def test_means_over_images_leave_undefined_ones_out() -> None:
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    means = mean_over_images({"x": np.array([1.0, np.nan, 4.0])}, weights)["x"]
    np.testing.assert_allclose(means, [2.5, 2.0, np.nan])
    assert mean_over_images({}) == {}


def test_an_evaluation_has_its_mean_and_the_value_of_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the greedy answer with its scores, and of the samples at each temperature."""

    def mentions(truth: Truth, answers: Answers, _: Any) -> Floats:
        return np.bincount(answers.mentions.image, minlength=len(truth.image_ids)) / answers.samples

    def scores(truth: Truth, answers: Answers, _: Any) -> Floats:
        return np.asarray(
            np.bincount(answers.mentions.image, answers.mentions.score, minlength=len(truth.image_ids)), np.float64
        )

    monkeypatch.setitem(IMAGE_MEASURES.ours, "crowd", ImageMeasure(mentions, meaning="m"))
    monkeypatch.setitem(IMAGE_MEASURES.ours, "sure", ImageMeasure(scores, meaning="m", of="greedy"))
    settings = EvaluationSettings(SampleSettings(samples=2, temperatures=(0.5,)), measures=("crowd", "sure"))
    made = measure(small.fitted(), small.benchmark(), settings, step=0, heldout_nll=None)
    images, told, greedy = (made.tables[name] for name in ("images", "mentions", "detections"))
    images = images[images["category_id"].isna()]
    for heat in (0.5, 1.0):
        at = images[images["temperature"] == heat].set_index("image_id")
        number = told[told["temperature"] == heat].groupby("image_id").size().reindex(at.index, fill_value=0)
        assert (at["measure_crowd"] == number / 2).all()
        sums = greedy[greedy["temperature"] == 0].groupby("image_id")["score"].sum().reindex(at.index, fill_value=0)
        np.testing.assert_allclose(at["measure_sure"], sums)
    assert made.info.diversity["crowd"] == pytest.approx(images[images["temperature"] == 1]["measure_crowd"].mean())


# ---- reports ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose cells have the measure `crowd` of a package that is not here: the mentions of a sample."""
    stated = {"id": "H", "claim": "c", "metric": "crowd", "a": "ce", "b": "sed", "at": "equal_AP"}
    suite = fake_cells.suite(measures=["crowd"], hypotheses=[stated])
    folder = fake_cells.write_run(tmp_path / "run", suite, images=10)
    for cell in sorted((folder / "cells").iterdir()):
        frame = pd.read_parquet(cell / "images.parquet")
        frame["measure_crowd"] = (frame["mentions"] / frame["samples"]).astype(np.float64)
        frame.to_parquet(cell / "images.parquet", index=False)
        files = {path.name: sha256(path) for path in sorted(cell.glob("*.parquet"))}
        info = {"heading": "crowding", "direction": 1, "meaning": MEANING}
        fake_cells.rewrite(cell, files=files, measures={"crowd": info})
    return folder


def test_a_report_has_it_without_the_package(run: Path) -> None:
    results = load(run)
    (key, *_) = results.finished("toy", "ce")
    frame = results.read_table(key, "images")
    last = frame[(frame["step"] == 240) & (frame["temperature"] == 1) & frame["category_id"].isna()]
    expected = float((last["mentions"] / last["samples"]).mean())
    assert results.points(key, 240)["crowd"] == pytest.approx(expected, abs=1e-12)
    low, high = np.quantile(results.replicates(key, 240)["crowd"], [0.025, 0.975])
    assert low < expected < high
    shown = text.to_markdown(results)
    assert "### Measures of other packages (K = 4 samples)" in shown
    assert f"crowding: {MEANING}" in shown
    assert "crowd: ce - sed at equal AP" in shown
    assert f"<dt>crowd</dt>\n<dd>{MEANING}</dd>" in html.to_html(results)
    assert f"crowding: {MEANING}" in latex.to_latex(results)
    assert sum(",crowd," in line for line in text.to_csv(results).splitlines()) == len(results.suite.models) * 4 + 2


def test_it_is_published_and_read_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.publish.draw", lambda results, folder, suffixes: [])
    before = text.to_csv(load(run))
    assert publish(run, tmp_path / "published") == []
    assert text.to_csv(load(tmp_path / "published")) == before


def test_a_record_without_the_measures_of_its_suite_is_refused(run: Path) -> None:
    cell = next((run / "cells").glob("toy-ce-*"))
    measures = json.loads((cell / "record.json").read_text())["measures"]
    fake_cells.rewrite(cell, measures={})
    with pytest.raises(DataError, match=r"record\.json: field measures: expected \['crowd'\], got \[\]"):
        load(run)
    fake_cells.rewrite(cell, measures=measures | {"crowd": {**measures["crowd"], "direction": 2}})
    with pytest.raises(DataError, match=r"measures\.crowd\.direction"):
        load(run)


def test_a_run_without_a_finished_cell_has_a_report(run: Path) -> None:
    for record in (run / "cells").glob("*/record.json"):
        record.unlink()
    assert load(run).measures["crowd"].heading == "crowd"
    assert "not tested" in text.to_markdown(load(run))


def test_descriptions_leave_out_what_cannot_be_described(install: Install) -> None:
    install(MEASURE)
    described = described_measures(["theirs", "missing", "AP"])
    assert {name: measure.heading for name, measure in described.items()} == {"theirs": "theirs"}

"""`detmodes measure` end to end: figures by hand, a cell's own figures again, files and tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.evaluators import evaluator
from benchmarks.readers.annotations import load
from harness.commands.score import measure as measuring
from harness.commands.score.measure import DiversityRequest, Measured
from harness.errors import ConfigError, DataError
from harness.evaluation.evaluate import Measurement, measure
from harness.evaluation.scored_samples import EvaluationSettings
from harness.suite.schema import SampleSettings
from harness.types import Box, Detections
from model_zoo.oracle import OracleUniform
from tests.benchmarks.documents import (
    Document,
    annotation,
    coco_category,
    coco_image,
    detection,
    document,
    write,
)
from tests.commands.score.sample_lines import LEFT_CUP, SHIFTED, SOFA, TRUTH, lines, named, row, samples
from tests.evaluation.hand_made import HandMade

Shared = Callable[[str], Path]


def measured(folder: Path, content: list[Document], truth: Document = TRUTH, **options: Any) -> Measured:
    annotations = write(folder / "truth.json", truth)
    return measuring.measure(DiversityRequest(samples=lines(folder, content), annotations=annotations, **options))


def only(result: Measured) -> Any:
    (block,) = result.document["temperatures"]
    return block


# ---- figures -----------------------------------------------------------------------------------------------------


def test_figures_by_hand(tmp_path: Path) -> None:
    """Sofa: image 1 verified by both samples, as sofa and as couch (the couch at SOFA itself, IoU 1, not the shifted
    one); image 2 by one of two. Cup: one of two instances, by both samples.
    """
    figures = only(measured(tmp_path, samples()))["figures"]
    assert figures["recall"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert figures["recall/f"] == pytest.approx(3 / 4)
    assert figures["recall/r"] == pytest.approx(2 / 4)
    assert figures["recall/c"] is None  # there is no dog
    assert figures["coverage@2"] == pytest.approx((1 + 1 / 2) / 2)
    # Sofa alone has a choice of names. Only image 1 has two verifying samples, and they differ: 1, over 1 - 1/2.
    assert figures["name_diversity/f"] == 1.0
    assert figures["normalised_name_diversity"] == 2.0
    assert figures["distinct_names/f"] == pytest.approx((2 + 1) / 2)
    # 3 of the 2 * 2 (instance, name) pairs of sofas: sofa and couch in image 1, couch in image 2.
    assert figures["cluster_coverage"] == pytest.approx(3 / 4)
    assert figures["box_spread"] == 0.0
    # 8 mentions: the shifted couch repeats a sofa, one dog where there is none, one settee; 1 malformed beside them.
    assert figures["duplicate_rate"] == pytest.approx(1 / 8)
    assert figures["hallucination_rate"] == pytest.approx(1 / 8)
    assert figures["unknown_name_rate"] == pytest.approx(1 / 8)
    assert figures["malformed_rate"] == pytest.approx(1 / 9)
    assert figures["truncation_rate"] == pytest.approx(1 / 4)
    assert figures["unique_sequences"] == 1.0
    # Both samples of image 1 verify the sofa and the left cup, in opposite order.
    assert figures["order_distance"] == 1.0
    # Names of image 1: sofa cup, cup couch dog couch: 4 of 6 differ. Image 2: couch settee: 2 of 2.
    assert figures["distinct_1"] == pytest.approx((4 / 6 + 1) / 2)


def test_ap_of_the_greedy_answer_and_of_the_consensus(tmp_path: Path) -> None:
    """Sofa of image 1: the seed is sample 1's; of sample 2's two couches the one at SOFA (IoU 1) joins it, though the
    shifted one is more probable, so the box is SOFA and the score (0.5 + 0.4) / 2. The rest are alone: 0.5 / 2.
    """
    result = measured(tmp_path, samples())
    annotations = load(tmp_path / "truth.json", tmp_path)
    greedy = [detection(1, 1, 0.9, *SOFA), detection(1, 2, 0.8, *LEFT_CUP)]
    rank_consensus = [
        detection(1, 1, 0.45, *SOFA),
        detection(1, 1, 0.25, *SHIFTED),
        detection(1, 2, 0.5, *LEFT_CUP),
        detection(1, 3, 0.25, *SOFA),
        detection(2, 1, 0.25, *SOFA),
    ]
    expected = [evaluator.evaluate(annotations, Detections.of(ranked)).metrics for ranked in (greedy, rank_consensus)]
    block = only(result)
    assert result.document["greedy"]["metrics"] == expected[0]
    assert block["consensus"]["metrics"] == expected[1]
    assert expected[1]["AP"] is not None
    assert expected[0]["AP"] is not None
    assert block["gain"]["metrics"]["AP"] == expected[1]["AP"] - expected[0]["AP"] > 0


def test_without_scores_there_is_no_ap_but_a_reason(tmp_path: Path) -> None:
    content = samples()
    for line in content:
        for mention in line["mentions"][:1]:
            del mention["score"]
    result = measured(tmp_path, content)
    assert result.document["greedy"] == {"metrics": None, "intervals": {}, "reason": "1 of 2 mentions have no score"}
    # The settee has a score, but no category: it would not be ranked.
    assert only(result)["consensus"]["reason"] == "3 of 7 mentions have no score"
    assert only(result)["gain"] is None
    assert only(result)["figures"] == only(measured(tmp_path, samples()))["figures"]
    reason = measured(tmp_path, content[:4]).document["greedy"]["reason"]
    assert reason == "no sample of temperature 0"


def test_intervals_are_those_of_the_image_bootstrap(tmp_path: Path) -> None:
    """Recall of cups: image 1 alone has some, so every replicate that has image 1 gives 1/2. Of truncation: 1/2 of
    image 2, 0 of image 1: the mean over two draws, standard deviation sqrt(1/2) * 1/4 (binomial, n = 2, halved).
    """
    block = only(measured(tmp_path, samples(), bootstrap=2000))
    assert block["intervals"]["recall/r"] == {"low": 0.5, "high": 0.5}
    assert block["intervals"]["recall/c"] == {"low": None, "high": None}
    low, high = (block["intervals"]["truncation_rate"][side] for side in ("low", "high"))
    assert (low + high) / 2 == pytest.approx(0.25)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.5) / 4, rel=0.05)
    assert block["intervals"].keys() == block["figures"].keys()
    assert block["gain"]["intervals"]["AP"]["low"] <= block["gain"]["metrics"]["AP"]


def test_replicates_do_not_depend_on_how_many_are_computed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = only(measured(tmp_path, samples(), bootstrap=50))["intervals"]
    monkeypatch.setattr(measuring, "TOGETHER", 7)
    assert only(measured(tmp_path, samples(), bootstrap=50))["intervals"] == whole


def test_coco_has_the_names_of_lvis_and_no_frequencies(tmp_path: Path) -> None:
    truth = document(
        [coco_image(1)], [annotation(1, 1, 1, *SOFA)], [coco_category(1, "couch"), coco_category(2, "cup")]
    )
    content = [row(1, k, named(name, SOFA)) for k, name in enumerate(("couch", "sofa"))]
    result = measured(tmp_path, content, truth, protocol="coco")
    assert only(result)["figures"]["name_diversity"] == 1.0
    assert only(result)["figures"]["recall/f"] is None
    assert result.categories[0]["names"] > 1
    assert "APr" not in only(result)["consensus"]["metrics"]
    with pytest.raises(DataError, match="looks like a COCO file"):
        measured(tmp_path, content, truth)


def test_each_temperature_is_measured_as_if_alone(tmp_path: Path) -> None:
    hot = [line | {"temperature": 1.5, "mentions": line["mentions"][:1]} for line in samples()[:4]]
    both = measured(tmp_path, samples() + hot)
    assert [block["temperature"] for block in both.document["temperatures"]] == [1.0, 1.5]
    for content, block in zip((samples(), hot + samples()[4:]), both.document["temperatures"], strict=True):
        assert only(measured(tmp_path, content)) == block
    assert only(measured(tmp_path, samples() + hot, temperature=1.5)) == both.document["temperatures"][1]
    assert [line["temperature"] for line in both.images] == [1.0, 1.0, 1.5, 1.5]
    assert len(both.categories) == 6


# ---- a cell ------------------------------------------------------------------------------------------------------


def cell(folder: Path, settings: SampleSettings, benchmark: Any) -> Measurement:
    """Evaluates an oracle and writes its tables as a cell has them."""
    oracle = OracleUniform(benchmark.categories, {})
    measurement = measure(oracle, benchmark, EvaluationSettings(settings), step=8, heldout_nll=None)
    (folder / "cell").mkdir()
    for name in ("samples", "mentions"):
        measurement.tables[name].to_parquet(folder / "cell" / f"{name}.parquet", index=False)
    return measurement


def test_a_cell_gives_its_own_figures_again(tmp_path: Path) -> None:
    measurement = cell(tmp_path, SampleSettings(samples=4, temperature=1.0), HandMade(tmp_path))
    again = measuring.measure(DiversityRequest(samples=tmp_path / "cell", annotations=tmp_path / "annotations.json"))
    assert only(again)["figures"] == measurement.info.diversity
    assert again.document["greedy"]["metrics"] == measurement.info.metrics
    assert only(again)["consensus"]["metrics"] == measurement.info.consensus
    assert again.document["samples"]["step"] == 8
    assert set(again.document["samples"]["sha256"]) == {"samples.parquet", "mentions.parquet"}


def test_a_cell_with_several_temperatures_is_a_curve(tmp_path: Path) -> None:
    settings = SampleSettings(samples=3, temperature=1.0, temperatures=(0.5, 2.0))
    measurement = cell(tmp_path, settings, HandMade(tmp_path))
    again = measuring.measure(DiversityRequest(samples=tmp_path / "cell", annotations=tmp_path / "annotations.json"))
    blocks = {block["temperature"]: block["figures"] for block in again.document["temperatures"]}
    assert list(blocks) == [0.5, 1.0, 2.0]
    assert blocks[1.0] == measurement.info.diversity


def test_real_photographs(shared: Shared, tmp_path: Path) -> None:
    """Samples that repeat the ground truth, once by the first and once by the last name of each category: everything
    is found, nothing is wrong, and name diversity is 1 where a category has names to choose from."""
    path = shared("data/coco128-lvis/val.json")
    annotations = load(path, path.parent / "images")
    names = {category.id: category.names for category in annotations.categories}
    content = [
        row(e.image_id, k, *(named(names[i.category_id][-k], sides(i.box), 1.0) for i in e.instances))
        for e in annotations.examples
        for k in (0, 1)
    ]
    result = measuring.measure(DiversityRequest(samples=lines(tmp_path, content), annotations=path))
    figures = only(result)["figures"]
    assert figures["recall"] == figures["coverage@1"] == figures["precision"] == 1.0
    assert figures["duplicate_rate"] == figures["unknown_name_rate"] == figures["malformed_rate"] == 0.0
    diversity = {line["name"]: line["name_diversity"] for line in result.categories if line["support"]}
    assert len(diversity) > 30
    assert diversity == {
        name: float(len(names[c.id]) > 1) for c in annotations.categories if (name := c.name) in diversity
    }
    assert only(result)["consensus"]["metrics"]["AP"] == pytest.approx(1.0)


def sides(box: Box) -> tuple[float, float, float, float]:
    return box.x, box.y, box.w, box.h


# ---- files and tables --------------------------------------------------------------------------------------------


def run(folder: Path, content: list[Document], capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    annotations = write(folder / "truth.json", TRUTH)
    measuring.command(True, samples=lines(folder, content), annotations=annotations, **options)
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_the_files_hold_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"output": tmp_path / "out.json", "per_category": tmp_path / "c.csv", "per_image": tmp_path / "i.csv"}
    run(tmp_path, samples(), capsys, **files)
    document = json.loads(files["output"].read_text())
    assert document["samples"]["K"] == 2
    assert document["annotations"]["images"] == 2
    assert document["annotations"]["instances"] == 4
    assert len(document["annotations"]["sha256"]) == len(document["samples"]["sha256"]["samples.jsonl"]) == 64
    assert document["versions"]["numpy"] == np.__version__
    assert document["temperatures"][0]["defined_for"]["normalised_name_diversity"] == 1
    with files["per_category"].open(newline="") as stream:
        sofa, cup, dog = csv.DictReader(stream)
    assert (sofa["names"], sofa["instances"], sofa["support"], sofa["name_diversity_support"]) == ("2", "2", "2", "1")
    assert (sofa["reportable"], sofa["recall"], sofa["normalised_name_diversity"]) == ("0", "0.75", "2.0")
    assert (cup["instances"], cup["name_diversity"], cup["normalised_name_diversity"]) == ("2", "0.0", "")
    assert (dog["support"], dog["recall"]) == ("0", "")
    with files["per_image"].open(newline="") as stream:
        first, second = csv.DictReader(stream)
    assert (first["image_id"], first["samples"], first["mentions"], first["order_distance"]) == ("1", "2", "6", "1.0")
    assert (second["malformed"], second["truncated"], second["order_distance"]) == ("1", "1", "")


def cells(out: str, name: str) -> list[str]:
    """The cells of the row of a table that begins with this name."""
    (line,) = (line for line in out.splitlines() if line.startswith("│") and line.split("│")[1].strip() == name)
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_the_tables_show_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(tmp_path, samples(), capsys)
    assert "K = 2 at temperature 1" in out
    assert cells(out, "recall") == ["0.6250", "0.5000", "-", "0.7500", "2"]
    assert cells(out, "duplicate_rate") == ["0.1250"]
    assert len(cells(out, "AP")) == 3
    out = run(tmp_path, samples(), capsys, bootstrap=20)
    assert cells(out, "recall")[1].startswith("[")
    assert len(cells(out, "AP")) == 6


def test_a_temperature_curve_is_one_column_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hot = [line | {"temperature": 2} for line in samples()[:4]]
    out = run(tmp_path, samples() + hot, capsys)
    assert "T = 1 " in out
    assert "T = 2 " in out
    assert cells(out, "recall") == ["0.6250", "0.6250"]
    for line in hot:
        line["mentions"] = [{key: value for key, value in m.items() if key != "score"} for m in line["mentions"]]
    out = run(tmp_path, samples() + hot, capsys)
    assert cells(out, "AP of the consensus")[1] == "-"
    assert "no AP of the consensus at temperature 2: 7 of 7 mentions have no score" in out


def test_places_that_cannot_be_written_are_told_before_anything_is_read(tmp_path: Path) -> None:
    request = {"samples": tmp_path / "s.jsonl", "annotations": tmp_path / "truth.json"}
    outputs = {"output": tmp_path / "s.jsonl", "per_category": tmp_path, "per_image": tmp_path / "no" / "i.csv"}
    with pytest.raises(ConfigError) as error:
        measuring.command(True, **request, **outputs)
    assert [problem.partition(" ")[0] for problem in error.value.problems] == [
        "--output",
        "--per-category",
        "--per-image",
    ]

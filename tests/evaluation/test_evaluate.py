"""Figures and tables of one evaluation, derived by hand from hand-made sequences; and AP from the tables alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.evaluation.evaluate import Measurement, measure
from harness.evaluation.scored_samples import EvaluationSettings
from harness.metrics.detection import ap
from harness.metrics.samples import aggregate
from harness.protocols import Benchmark, Predictor
from harness.records import CategoryInfo, CellInfo, Record
from harness.records import tables as records
from harness.records.gallery import gallery_frame
from harness.sequence import NameVocabulary
from harness.types import Box, Sample
from model_zoo.flamingo.toy import OpenFlamingo
from model_zoo.oracle import OracleUniform
from tests.evaluation.hand_made import COUCH, CUP_A, CUP_B, ELSEWHERE, SOFA, A, B, HandMade, measured, scripted
from tests.support import small


def test_the_fakes_are_what_they_stand_for(tmp_path: Path) -> None:
    benchmark: Benchmark = HandMade(tmp_path)
    predictor: Predictor = scripted(benchmark.categories, {})
    assert predictor.codec.categories == benchmark.categories


def test_perfect_and_wrong_greedy_answers(tmp_path: Path) -> None:
    """AP comes from the greedy answer alone: all three objects found, AP 1; all boxes elsewhere, AP 0."""
    perfect = {1: [[SOFA, CUP_B], [], []], 2: [[CUP_A], [], []]}
    right = measured(tmp_path, perfect)
    assert right.info.metrics["AP"] == pytest.approx(1.0)
    assert right.evaluation.per_category[1] == pytest.approx(1.0)
    assert right.evaluation.per_category[3] is None  # no dog anywhere
    assert right.info.metrics["APr"] is None
    assert right.info.diversity["recall"] == 0.0  # and diversity from the samples alone
    wrong = {1: [[("sofa", ELSEWHERE), ("cup", ELSEWHERE)], [SOFA], [SOFA]], 2: [[("cup", ELSEWHERE)], [], []]}
    assert measured(tmp_path, wrong).info.metrics["AP"] == 0.0


def test_half_of_the_categories(tmp_path: Path) -> None:
    """Sofa found, no cup mentioned: AP is the mean of 1 and 0."""
    info = measured(tmp_path, {1: [[COUCH], [], []], 2: [[], [], []]}).info
    assert info.metrics["AP"] == pytest.approx(0.5)
    assert (info.step, info.heldout_nll) == (7, 1.5)


def test_recall_and_coverage(tmp_path: Path) -> None:
    """Sofa: 1 of 2 samples, recall 1/2, coverage@1 1/2, coverage@2 1. Cup: instances in images 1 and 2, verified
    by 0 and 2 of 2 samples: recall 2/4, coverage 1/2 at both. Means: recall 1/2, coverage@2 3/4."""
    result = measured(tmp_path, {1: [[], [SOFA], []], 2: [[], [CUP_A], [CUP_A]]})
    info, (sofa, cup, _) = result.info, by_category(tmp_path, result)
    assert info.diversity["recall"] == pytest.approx(0.5)
    assert info.diversity["coverage@1"] == pytest.approx(0.5)
    assert info.diversity["coverage@2"] == pytest.approx(0.75)
    assert (sofa["coverage@2"], cup["coverage@2"]) == (1.0, 0.5)
    assert info.diversity["recall/f"] == pytest.approx(0.5)
    assert info.diversity["recall/r"] is None


@pytest.mark.parametrize(
    ("named", "expected", "normalised", "distinct"),
    [
        # Four samples: all pairs equal; 3 + 1 split: 3 of 6 pairs differ; 2 + 2: 4 of 6. S = 2: divide by 1/2.
        ([SOFA, SOFA, SOFA, SOFA], 0.0, 0.0, 1),
        ([SOFA, COUCH, SOFA, SOFA], 1 / 2, 1.0, 2),
        ([SOFA, COUCH, COUCH, SOFA], 2 / 3, 4 / 3, 2),
    ],
)
def test_name_diversity(tmp_path: Path, named: list[Any], expected: float, normalised: float, distinct: int) -> None:
    samples = [[mention] for mention in named]
    result = measured(tmp_path, {1: [[], *samples], 2: [[], [], [], [], []]}, samples=4)
    info, (sofa, cup, _) = result.info, by_category(tmp_path, result)
    assert sofa["name_diversity"] == pytest.approx(expected)
    assert info.diversity["normalised_name_diversity"] == pytest.approx(normalised)  # an unbiased one may exceed 1
    assert info.diversity["distinct_names"] == distinct
    assert np.isnan(cup["name_diversity"])  # never verified: undefined, not 0
    assert np.isnan(cup["normalised_name_diversity"])


def test_troubles_are_counted_in_the_samples(tmp_path: Path) -> None:
    """Image 1, sample 1: sofa, the same sofa again (duplicate), a dog that is not there (hallucination) and a
    unicorn (unknown): 4 mentions. Sample 2: an entry of two names without a box (malformed), cut off before its
    end inside a second entry (truncated). Image 2: nothing, twice. 4 mentions, 1 malformed, 4 samples."""
    names = NameVocabulary((*("sofa", "couch", "cup", "dog"), "unicorn"), 65)
    broken = (names.ids["sofa"], names.ids["cup"], names.separator, names.ids["sofa"], names.locations[3])
    first = [SOFA, COUCH, ("dog", ELSEWHERE), ("unicorn", B)]
    result = measured(tmp_path, {1: [[], first, broken], 2: [[], [], []]})
    figures = result.info.diversity
    assert figures["duplicate_rate"] == pytest.approx(1 / 4)
    assert figures["hallucination_rate"] == pytest.approx(1 / 4)
    assert figures["unknown_name_rate"] == pytest.approx(1 / 4)
    assert figures["malformed_rate"] == pytest.approx(1 / 5)
    assert figures["truncation_rate"] == pytest.approx(1 / 4)
    assert figures["unique_name_sequences"] == pytest.approx((2 / 2 + 1 / 2) / 2)
    samples = result.tables["samples"].set_index(["image_id", "sample"])
    assert samples.loc[(1, 2), "malformed"] == 1
    assert samples.loc[(1, 2), "truncated"]
    mentions = result.tables["mentions"]
    assert mentions["name"].tolist() == ["sofa", "couch", "dog", "unicorn"]
    assert mentions["duplicate"].tolist() == [False, True, False, False]
    assert mentions["hallucination"].tolist() == [False, False, True, False]
    assert mentions["unknown"].tolist() == [False, False, False, True]
    assert mentions["category_id"].isna().tolist() == [False, False, False, True]
    assert mentions["instance_id"].fillna(0).tolist() == [1, 0, 0, 0]


def test_an_unknown_name_is_no_detection(tmp_path: Path) -> None:
    result = measured(tmp_path, {1: [[("unicorn", A), SOFA], [], []], 2: [[], [], []]})
    assert result.tables["detections"]["category_id"].tolist() == [1]


def test_a_detection_of_an_unverified_category_does_not_count(tmp_path: Path) -> None:
    """Image 2 says nothing about sofas: such a detection is kept in the table but not evaluated."""
    result = measured(tmp_path, {1: [[SOFA], [], []], 2: [[SOFA, CUP_A], [], []]})
    table = result.tables["detections"].set_index(["image_id", "category_id"]).query("temperature == 0")
    assert table["evaluated"].to_dict() == {(1, 1): True, (2, 2): True, (2, 1): False}
    assert table["true_positive"].to_dict() == {(1, 1): 1023, (2, 2): 1023, (2, 1): 0}  # all ten thresholds
    assert result.evaluation.per_category[1] == pytest.approx(1.0)


def test_every_sample_has_a_row_and_tables_have_their_columns(tmp_path: Path) -> None:
    result = measured(tmp_path, {1: [[SOFA], [], [SOFA, CUP_B]], 2: [[], [], []]})
    samples = result.tables["samples"]
    keys = [tuple(row) for row in samples[["temperature", "image_id", "sample"]].itertuples(index=False)]
    assert keys == [(0, 1, 0), (0, 2, 0), (1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2)]
    assert samples["text"].tolist()[:2] == ["sofa <loc8> <loc8> <loc24> <loc24> <end>", "<end>"]
    sums = [-5.25, -0.25, -0.25, -19.5, -0.25, -0.25]  # -(1 + ... + n) / 4
    assert samples["log_prob"].tolist() == pytest.approx(sums)
    box = ["x", "y", "w", "h"]
    flags = ["duplicate", "hallucination", "neutral", "unknown"]
    scores = ["name_score", "category_score", "location_score"]
    expected = {
        "samples": [
            "step",
            "image_id",
            "sample",
            "temperature",
            "text",
            "log_prob",
            "malformed",
            "truncated",
            "lenient",
        ],
        "detections": [
            *("step", "temperature", "image_id", "category_id"),
            *box,
            "score",
            "evaluated",
            "true_positive",
            "left_out",
            "ignored",
        ],
        "mentions": [
            *("step", "temperature", "image_id", "sample", "position", "name", "category_id", *box),
            *(*scores, "instance_id", "iou", *flags),
        ],
        "images": [
            *("step", "temperature", "image_id", "category_id", "instances", "verified", "names", "present", "choices"),
            *("name_diversity", "distinct_names", "box_spread", "samples", "mentions", "verified_mentions"),
            *("neutral_mentions", "duplicates", "hallucinations", "unknown_names", "malformed", "truncated", "lenient"),
            *("unique_name_sequences", "unique_sequences", "order_distance"),
            *("self_bleu", "distinct_1", "distinct_2", "vendi", "distinct_ways", "way_diversity"),
        ],
    }
    assert {name: sorted(table.columns) for name, table in result.tables.items()} == {
        name: sorted(columns) for name, columns in expected.items()
    }
    assert all((table["step"] == 7).all() for table in result.tables.values())


def test_without_logits_the_score_is_constant_and_says_so(tmp_path: Path) -> None:
    result = measured(tmp_path, {1: [[SOFA], [], []], 2: [[], [], []]})
    assert result.score_source == "constant"
    assert result.tables["detections"]["score"].tolist() == [1.0]


def by_category(folder: Path, result: Measurement) -> list[dict[str, float]]:
    """The figures of each category at temperature 1, made from the tables."""
    table, _ = records.tables(result.tables["images"], 7, 1.0, record_of(HandMade(folder), result))
    figures = aggregate.category_figures(table)
    return [{name: float(values[0, index]) for name, values in figures.items()} for index in range(len(table.names))]


def record_of(benchmark: Benchmark, result: Measurement) -> Record:
    """The part of a record that its tables are read with."""
    cell = CellInfo(benchmark={}, model={}, objective=None, seed=0, train=None, sample={}, score="category")
    return Record(
        status="finished",
        suite="s",
        label="base",
        model_label="m",
        role="base",
        cell=cell,
        digest="0",
        categories=tuple(CategoryInfo(id=c.id, names=c.names, frequency=c.frequency) for c in benchmark.categories),
        image_ids=tuple(e.image_id for e in benchmark.split("val")),
        code={},
        packages={},
        device={},
        evaluations=(result.info,),
    )


class Jittered(OracleUniform):
    """The oracle with boxes that are sometimes off and objects that are sometimes left out: AP between 0 and 1."""

    def generate(self, *args: Any, **kwargs: Any) -> list[list[Sample]]:
        return [
            [self._spoilt(s, index) for s in answers] for index, answers in enumerate(super().generate(*args, **kwargs))
        ]

    def _spoilt(self, sample: Sample, index: int) -> Sample:
        parsed = self.codec.decode(sample.tokens, 64, 64).mentions[index % 2 :]
        moved = [(m.name, Box(m.box.x, m.box.y, m.box.w, m.box.h + index % 4)) for m in parsed]
        tokens = self.codec.encode(moved, 64, 64)
        return Sample(tokens, (0.0,) * len(tokens))


@pytest.mark.parametrize("kind", ["jittered oracle", "shipped model", "untrained model"])
def test_official_ap_can_be_recomputed_from_the_tables(kind: str, tmp_path: Path) -> None:
    benchmark = small.benchmark()
    made: dict[str, Callable[[], Predictor]] = {
        "jittered oracle": lambda: Jittered(benchmark.categories, {}),
        "shipped model": lambda: OpenFlamingo(benchmark.categories, {}),
        "untrained model": lambda: small.fresh(),
    }
    predictor = made[kind]()
    settings = small.SAMPLE.model_copy(update={"max_tokens": 32, "grammar": kind != "jittered oracle"})
    result = measure(predictor, benchmark, EvaluationSettings(settings), step=0, heldout_nll=None)
    tables = {}
    for name, table in result.tables.items():  # the way through the file is part of it
        table.to_parquet(tmp_path / f"{name}.parquet", index=False)
        tables[name] = pd.read_parquet(tmp_path / f"{name}.parquet")
    record = record_of(benchmark, result)
    matches = records.matches(tables["images"], tables["detections"], 0, record)
    figures = ap.average_precision(matches, len(benchmark.categories))
    frequency = [c.frequency for c in benchmark.categories]
    summary = ap.summarise(figures, frequency)
    for name, value in summary.items():
        assert value[0] == pytest.approx(result.info.metrics[name], abs=1e-9)
    of_samples = records.matches(tables["images"], tables["detections"], 0, record, settings.temperature)
    consensus = ap.summarise(ap.average_precision(of_samples, len(benchmark.categories)), frequency)
    assert consensus["AP"][0] == pytest.approx(result.info.consensus["AP"], abs=1e-9)
    for index, item in enumerate(benchmark.categories):
        official = result.evaluation.per_category[item.id]
        assert figures.ap[0, index] == pytest.approx(
            float("nan") if official is None else official, nan_ok=True, abs=1e-9
        )
    if kind == "jittered oracle":
        assert 0.2 < summary["AP"][0] < 0.95
    assert len(tables["detections"]) > 0


def test_a_model_scores_by_category_and_a_setting_says_otherwise() -> None:
    """An untrained model with grammar: category >= name >= sequence = name x box, all from the greedy answer."""
    scores = {}
    for source in ("category", "name", "sequence", "constant"):
        settings = small.SAMPLE.model_copy(update={"max_tokens": 18, "grammar": True})
        result = measure(
            small.fitted(), small.benchmark(), EvaluationSettings(settings, source), step=0, heldout_nll=None
        )
        assert result.score_source == source
        # boxes and ids fix the order: the table is ranked by score
        scores[source] = (
            result.tables["detections"]
            .query("temperature == 0")
            .sort_values(["image_id", "category_id", "x", "y"])["score"]
            .tolist()
        )
    assert all(c >= n >= s for c, n, s in zip(*(scores[k] for k in ("category", "name", "sequence")), strict=True))
    assert set(scores["constant"]) == {1.0}
    assert len({tuple(values) for values in scores.values()}) == 4


def test_the_consensus_counts_samples(tmp_path: Path) -> None:
    """Both samples see the sofa in image 1 (one calls it couch), one of them a cup at its place and one elsewhere: a
    sofa of score 1, two cups of score 1/2. No sample sees anything in image 2."""
    result = measured(tmp_path, {1: [[], [SOFA, CUP_B], [COUCH, ("cup", ELSEWHERE)]], 2: [[], [], []]})
    table = result.tables["detections"].query("temperature == 1")
    scores = table.set_index(["category_id", "x", "y"])["score"].to_dict()
    assert scores == {(1, A.x, A.y): 1.0, (2, B.x, B.y): 0.5, (2, ELSEWHERE.x, ELSEWHERE.y): 0.5}
    # Sofa AP 1; cup: of two instances one is found at rank 1 (ties: by order) or 2, AP 51/101 or half of it.
    assert result.info.metrics["AP"] == 0.0
    assert result.info.consensus["AP"] in (pytest.approx((1 + 51 / 101) / 2), pytest.approx((1 + 51 / 202) / 2))


def test_only_the_last_step_has_other_temperatures_and_a_consensus() -> None:
    settings = small.SAMPLE.model_copy(update={"temperatures": (0.5, 2.0), "max_tokens": 18, "grammar": True})
    results = {
        last: measure(
            small.fitted(), small.benchmark(), EvaluationSettings(settings, last=last), step=3, heldout_nll=None
        )
        for last in (False, True)
    }
    heats = {last: result.tables["images"]["temperature"].unique().tolist() for last, result in results.items()}
    assert heats == {False: [1.0], True: [0.5, 1.0, 2.0]}
    of_detections = {last: set(result.tables["detections"]["temperature"]) for last, result in results.items()}
    assert of_detections == {False: {0.0}, True: {0.0, 0.5, 1.0, 2.0}}
    assert results[False].info.consensus == {}
    assert results[False].info.metrics == results[True].info.metrics
    assert results[False].info.diversity == results[True].info.diversity
    unscored = results[False].tables["mentions"].query("temperature > 0")["category_score"]
    assert unscored.isna().all()
    scored = results[True].tables["mentions"].query("category_id == category_id")
    assert scored["category_score"].between(0, 1).all()
    assert (scored["category_score"] >= scored["name_score"] - 1e-6).all()  # its own name is one of the names
    # The same random numbers, cooled: the cooler the more alike, so the fewer different sequences.
    unique = results[True].tables["images"].groupby("temperature")["unique_sequences"].mean()
    assert unique[0.5] < unique[1.0] <= unique[2.0]


def test_the_gallery_has_a_row_for_a_sample_without_a_word(tmp_path: Path) -> None:
    result = measured(tmp_path, {1: [[SOFA], [], [CUP_B, ("dog", A)]], 2: [[], [CUP_A], [CUP_A]]})
    frame = gallery_frame(result.tables, [1], temperature=1.0)
    shown = frame[["image_id", "sample", "position", "name", "verified"]].astype(object)
    rows = shown.where(shown.notna(), None).to_numpy().tolist()
    assert rows == [[1, 0, None, None, False], [1, 1, 0, "cup", True], [1, 1, 1, "dog", False]]

"""The two predictors that bound every figure read as they must: AP at its ceiling, diversity at 1 and at 0."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations, product

import pytest

from benchmarks.shapes import Shapes
from harness.evaluation.answers import read_and_match
from harness.evaluation.evaluate import Measurement, figure_tables, measure
from harness.evaluation.generation import generate
from harness.evaluation.scored_samples import EvaluationSettings
from harness.metrics.samples import aggregate
from harness.metrics.samples.mentions import Floats, truth_of
from harness.metrics.stats import Interval, bootstrap_weights, interval
from harness.protocols import Adapter, Predictor
from harness.suite.schema import SampleSettings
from harness.types import Box, Category
from model_zoo.oracle import OracleCollapsed, OracleUniform
from tests.support.tiny import example_of

SAMPLES = SampleSettings(samples=8, temperature=1.0)
SETTINGS = {"domain": "plain", "train_images": 64, "val_images": 120, "calibration_images": 0}
CATEGORIES = (Category(1, ("sofa", "couch"), "f"), Category(2, ("lamp", "light", "desk_lamp"), "c"))
PAIR = example_of(5, [(2, Box(4, 4, 2, 2)), (1, Box(0, 0, 3, 3))])
"""2 orders x 2 x 3 names = 12 members."""


@pytest.fixture(scope="module")
def benchmark() -> Shapes:
    return Shapes(SETTINGS)


def measured(predictor: Predictor, benchmark: Shapes) -> Measurement:
    return measure(predictor, benchmark, EvaluationSettings(SAMPLES), step=0, heldout_nll=None)


@pytest.fixture(scope="module")
def uniform(benchmark: Shapes) -> Measurement:
    return measured(OracleUniform(benchmark.categories, {}), benchmark)


@pytest.fixture(scope="module")
def collapsed(benchmark: Shapes) -> Measurement:
    return measured(OracleCollapsed(benchmark.categories, {}), benchmark)


def test_ap_is_exactly_the_ceiling(uniform: Measurement, collapsed: Measurement) -> None:
    for measures in (uniform, collapsed):
        for name in ("AP", "AP50", "AP75"):
            assert measures.info.metrics[name] == pytest.approx(1.0, abs=1e-12)
        assert measures.score_source == "constant"
        per_category = [ap for ap in measures.evaluation.per_category.values() if ap is not None]
        assert len(per_category) > 20
        assert per_category == pytest.approx([1.0] * len(per_category), abs=1e-12)


def test_too_few_bins_lower_the_ceiling(benchmark: Shapes) -> None:
    measures = measured(OracleCollapsed(benchmark.categories, {"bins": 32}), benchmark)
    ceiling = measures.info.metrics["AP"]
    assert ceiling is not None
    assert 0.5 < ceiling < 0.99


def test_both_find_everything_and_make_no_mistake(uniform: Measurement, collapsed: Measurement) -> None:
    for measures in (uniform, collapsed):
        figures = measures.info.diversity
        for name in ("recall", "coverage@1", "coverage@8"):
            assert figures[name] == pytest.approx(1.0, abs=1e-12)
        for name in ("duplicate", "hallucination", "unknown_name", "malformed"):
            assert figures[f"{name}_rate"] == 0.0
        assert figures["truncation_rate"] == 0.0
        assert figures["box_spread"] == pytest.approx(0.0, abs=1e-12)


def test_the_collapsed_one_has_no_diversity_at_all(collapsed: Measurement) -> None:
    figures = collapsed.info.diversity
    assert figures["name_diversity"] == 0.0
    assert figures["normalised_name_diversity"] == 0.0
    assert figures["unique_name_sequences"] == 1 / 8
    assert figures["unique_sequences"] == 1 / 8
    assert figures["order_distance"] == 0.0


def normalised_diversity(predictor: Predictor, benchmark: Shapes) -> Interval:
    """With its 95% interval over images, by the functions that tables are made with."""
    examples = benchmark.split("val")
    truth = truth_of(examples, benchmark.categories)
    emitted = [answers[1:] for answers in generate(predictor, examples, SAMPLES.temperature, SAMPLES, seed=0)]
    answers = read_and_match(predictor, examples, truth, benchmark.categories, emitted, SAMPLES.temperature)
    table, _ = figure_tables(truth, answers, benchmark.categories, text=False)

    def mean(weights: aggregate.Weights | None) -> Floats:
        return aggregate.mean_defined(aggregate.category_figures(table, weights)["normalised_name_diversity"])

    return interval(mean(None), mean(bootstrap_weights(len(examples), 300))[None])


def test_the_uniform_ones_interval_contains_1(benchmark: Shapes, uniform: Measurement) -> None:
    interval = normalised_diversity(OracleUniform(benchmark.categories, {}), benchmark)
    assert interval.low < 1.0 < interval.high
    assert interval.high - interval.low < 0.15
    assert interval.estimate == pytest.approx(uniform.info.diversity["normalised_name_diversity"])
    unique = uniform.info.diversity["unique_name_sequences"]
    assert unique is not None
    assert unique > 0.5


def test_the_uniform_one_draws_every_member_equally_often() -> None:
    """Pearson's chi-square exceeds 31.3 once in 1,000 for 11 degrees of freedom."""
    oracle = OracleUniform(CATEGORIES, {"bins": 9})
    drawn = Counter(sample.tokens for sample in oracle.generate([PAIR], [1.0] * 2400, seed=0, max_tokens=64)[0])
    members = {
        oracle.codec.encode([(names[instance.category_id], instance.box) for instance in order], 8, 8)
        for names in ({1: sofa, 2: lamp} for sofa, lamp in product(*(c.names for c in CATEGORIES)))
        for order in permutations(PAIR.instances)
    }
    assert drawn.keys() == members
    assert len(members) == 12
    assert sum((count - 200) ** 2 / 200 for count in drawn.values()) < 31.3


def test_log_probabilities_by_hand() -> None:
    # First object: one of 2, then one of its names; second: the one that is left, then one of its names.
    oracle = OracleUniform(CATEGORIES, {"bins": 9})
    for sample in oracle.generate([PAIR], [1.0] * 20, seed=1, max_tokens=64)[0]:
        first, second = oracle.codec.decode(sample.tokens, 8, 8).mentions
        names = [len(oracle.codec.names_of[mention.category_id or 0]) for mention in (first, second)]
        assert sorted(names) == [2, 3]
        assert sample.log_probs[first.name_start] == pytest.approx(-math.log(2 * names[0]))
        assert sample.log_probs[second.name_start] == pytest.approx(-math.log(names[1]))
        assert sum(sample.log_probs) == pytest.approx(-math.log(12))
        assert len(sample.log_probs) == len(sample.tokens)


def test_greedy_is_the_canonical_member() -> None:
    uniform, collapsed = OracleUniform(CATEGORIES, {"bins": 9}), OracleCollapsed(CATEGORIES, {"bins": 9})
    canonical = uniform.codec.encode([("sofa", Box(0, 0, 3, 3)), ("lamp", Box(4, 4, 2, 2))], 8, 8)
    (greedy,) = uniform.generate([PAIR], [0.0], seed=0, max_tokens=64)[0]
    assert greedy.tokens == canonical
    assert sum(greedy.log_probs) == 0.0
    for seed in (0, 1):
        assert {s.tokens for s in collapsed.generate([PAIR], [0.0, 1.0, 2.0], seed, 64)[0]} == {canonical}


def test_samples_depend_on_the_seed_and_the_image_alone() -> None:
    oracle, other = OracleUniform(CATEGORIES, {"bins": 9}), example_of(6, [(1, Box(0, 0, 3, 3))])
    heat = [0.0, *[1.0] * 8]
    alone = oracle.generate([PAIR], heat, seed=3, max_tokens=64)[0]
    assert oracle.generate([other, PAIR], heat, seed=3, max_tokens=64)[1] == alone
    assert oracle.generate([PAIR], heat, seed=4, max_tokens=64)[0] != alone


def test_oracles_have_no_logits() -> None:
    for oracle in (OracleUniform(CATEGORIES, {}), OracleCollapsed(CATEGORIES, {})):
        assert not isinstance(oracle, Adapter)
        assert oracle.describe() == {"name": oracle.name, "bins": 65, "weights_digest": None}
    assert OracleUniform(CATEGORIES, {"bins": 33}).codec.space.bins == 33


@pytest.mark.parametrize("bins", [1, "65", True, 6.5])
def test_bad_settings(bins: object) -> None:
    assert OracleUniform.problems({"bins": bins}) == [f"oracle.bins: expected an integer of at least 2, got {bins!r}"]
    assert len(OracleCollapsed.problems({"bins": bins, "bin": 3})) == 2
    assert OracleCollapsed.problems({}) == OracleCollapsed.problems({"bins": 2}) == []

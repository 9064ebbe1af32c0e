"""What decides a suite's hypotheses, on the published quickstart."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.metrics.stats import interval
from harness.report.power import ENOUGH, cheapest, hours, power_grids, prospects, run_sizes, with_hypotheses
from harness.report.renderers.text import markdown
from harness.report.results import Results, load
from harness.report.verdicts import verdicts
from harness.suite.schema import Hypothesis

QUICKSTART = Path(__file__).parents[3] / "results" / "quickstart"


@pytest.fixture(scope="module")
def results() -> Results:
    return load(QUICKSTART)


def test_the_hours_of_the_run_itself_are_what_its_cells_took(results: Results) -> None:
    """Of the rows that are computed once for all seeds the mean of their cells."""
    total = 0.0
    for label in ("base", "oracle-uniform", "oracle-collapsed"):
        of_row = [record for key, record in results.records.items() if key.label == label]
        total += sum(record.timings["evaluate"] for record in of_row) / len(of_row)
    for key, record in results.records.items():
        if key.label not in ("base", "oracle-uniform", "oracle-collapsed"):
            total += record.timings["train"] + record.timings["evaluate"] + record.timings.get("probe", 0.0)
    assert hours(results, len(results.suite.seeds), results.images) == pytest.approx(total / 3600)


def test_twice_the_images_cost_twice_the_evaluation(results: Results) -> None:
    one, two, three = (hours(results, 3, times * results.images) for times in (1, 2, 3))
    assert two > one
    assert three - two == pytest.approx(two - one)


def test_each_hypothesis_is_told_with_its_interval(results: Results) -> None:
    foreseen = prospects(results, run_sizes(results))
    assert [item.stated.hypothesis for item in foreseen] == [item.hypothesis for item in verdicts(results)]
    for prospect in foreseen:
        assert prospect.now == interval(prospect.stated.test.points, prospect.stated.test.replicates)


def test_the_cheapest_size_is_enough_and_no_cheaper_one_is(results: Results) -> None:
    sizes = run_sizes(results)
    (decided,) = [prospect for prospect in prospects(results, sizes) if prospect.stated.hypothesis.id == "H4"]
    size = cheapest([decided], sizes)
    assert size is not None
    assert decided.outlooks[size].chance >= ENOUGH
    assert all(decided.outlooks[other].chance < ENOUGH for other in sizes[: sizes.index(size)])


def test_no_size_is_named_where_none_is_enough(results: Results) -> None:
    *_, told = power_grids(results)
    assert "No size up to 40 seeds and 8 times the images decides all with 80%." in told.note


def test_hypotheses_of_a_planned_suite_take_the_place_of_the_runs_own(results: Results) -> None:
    stated = Hypothesis(id="P1", claim="", metric="AP", a="ce", b="base", margin=0.1)
    planned = results.suite.model_copy(update={"hypotheses": (stated,)})
    foreseen = prospects(with_hypotheses(results, planned), run_sizes(results)[:1])
    assert [prospect.stated.hypothesis.id for prospect in foreseen] == ["P1"]
    wrong = results.suite.model_copy(update={"hypotheses": (stated.model_copy(update={"a": "sed"}),)})
    with pytest.raises(ConfigError, match="unknown row of the run 'sed', did you mean"):
        with_hypotheses(results, wrong)


def test_the_page_shows_what_is_printed(results: Results) -> None:
    page = (QUICKSTART.parents[1] / "docs" / "explain" / "power.md").read_text()
    grids = power_grids(results)
    for grid in (grids[0], grids[-1]):
        assert markdown(grid).rstrip("\n") in page, "run detmodes power results/quickstart --format md, and copy it"


def test_a_suite_without_hypotheses_has_nothing_to_decide(results: Results) -> None:
    planned = results.suite.model_copy(update={"hypotheses": ()})
    with pytest.raises(ConfigError, match="expected hypotheses, got none"):
        power_grids(with_hypotheses(results, planned))

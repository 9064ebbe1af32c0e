"""Suites: nothing but data, cells in a fixed order, files by their path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import registry
from harness.errors import ConfigError
from harness.suite.cells import cells, rows
from harness.suite.load import load, parse, with_seeds
from harness.suite.schema import Suite
from harness.suite.train_settings import Train
from tests.suite.documents import GOOD
from tests.support import small


@pytest.mark.parametrize("name", sorted(registry.shipped_suites()))
def test_shipped_suites_load_and_expand(name: str) -> None:
    suite = load(name)
    made = list(cells(suite))
    assert suite.suite == name
    ids = [cell.id for cell in made]
    assert len(set(ids)) == len(ids)
    trained = len(suite.models) * len(suite.objectives) * len(suite.seeds)
    assert sum(cell.role == "trained" for cell in made) == trained
    derived = {stop.label for stop in suite.early_stops} | {row.label for row in suite.resampled}
    derived |= {f"{objective.label} after sft" for objective in suite.objectives if objective.then}
    assert {cell.label for cell in made} | derived == set(rows(suite))


def test_quickstart_has_the_rows_that_the_readme_explains() -> None:
    suite = load("quickstart")
    assert len(suite.seeds) >= 2
    assert suite.benchmark.settings["val_images"] >= 300
    assert suite.benchmark.settings["domain"] == "cluttered"
    settings = {objective.label: (objective.name, objective.settings) for objective in suite.objectives}
    assert settings["ce"] == ("ce", {})
    assert (settings["sed_sft"][1]["weight"], settings["sed_sft"][1]["mask"]) == (1.0, "live")
    assert (settings["sed_sft_w5_base"][1]["weight"], settings["sed_sft_w5_base"][1]["mask"]) == (5.0, "base")
    assert ("sed_sft", "ce", "equal_AP") in {(stated.a, stated.b, stated.at) for stated in suite.hypotheses}
    assert len(suite.hypotheses) > 0


def test_cells_and_rows_are_in_order() -> None:
    suite = parse(GOOD, "file.yaml")
    assert [cell.id for cell in cells(suite)] == [
        "open_flamingo-base-s0",
        *("open_flamingo-ce-s0", "open_flamingo-ce-s1", "open_flamingo-sed-s0", "open_flamingo-sed-s1"),
        *("oracle-uniform-s0", "oracle-collapsed-s0"),
    ]
    early = [{"label": "ce_early", "objective": "ce", "at_ap_of": "sed"}]
    suite = parse({**GOOD, "early_stops": early}, "file.yaml")
    assert rows(suite) == ["base", "ce", "sed", "ce_early", "oracle-uniform", "oracle-collapsed"]


def test_oracles_get_the_models_bins() -> None:
    suite = parse({**GOOD, "models": [{"name": "open_flamingo", "bins": 33}]}, "file.yaml")
    assert [cell.model.settings for cell in cells(suite) if cell.role == "oracle"] == [{"bins": 33}] * 2


def test_bare_names_and_labels() -> None:
    suite = parse(GOOD, "file.yaml")
    assert [(o.name, o.label, o.settings) for o in suite.objectives] == [
        ("ce", "ce", {}),
        ("sed_sft", "sed", {"mask": "none"}),
    ]
    assert suite.models[0].label == "open_flamingo"


def test_a_row_may_be_trained_otherwise() -> None:
    changes: dict[str, Any] = {
        "objectives": ["ce", {"name": "ce", "label": "sets", "train": {"targets": "all(4)", "batching": "grouped"}}]
    }
    suite = parse({**GOOD, **changes}, "file.yaml")
    plain, sets = (suite.train_of(suite.models[0], objective) for objective in suite.objectives)
    assert plain == suite.train
    assert sets == suite.train.model_copy(update={"targets": "all(4)", "batching": "grouped"})
    assert "train" not in suite.objectives[1].settings


def test_evaluations_end_with_the_last_step() -> None:
    assert Train(steps=9, eval_at=(4, 2, 4)).evaluations == (2, 4, 9)
    assert Train(steps=9, eval_at=(9,)).evaluations == (9,)


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert load(str(path)) == parse(GOOD, "")


def test_unknown_suites_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown suite 'quikstart', did you mean 'quickstart'"):
        load("quikstart")
    for missing in (str(tmp_path / "none"), "none.yaml"):
        with pytest.raises(ConfigError, match="no such suite file"):
            load(missing)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("suite: [unclosed", "expected YAML: "),
        ("- suite\n- benchmark\n", "expected a mapping with the keys suite, benchmark"),
        ("", "expected a mapping"),
        (
            "suite: !!python/object/apply:os.system ['touch owned']\n",
            "expected YAML: could not determine a constructor",
        ),
    ],
)
def test_files_that_are_no_suite(content: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(content)
    with pytest.raises(ConfigError) as error:
        load("bad.yaml")
    (problem,) = error.value.problems
    assert problem.startswith(f"bad.yaml: {expected}")
    assert "\n" not in problem
    assert not Path("owned").exists()


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match=r"bad\.yaml: expected YAML"):
        load(str(path))


def test_seeds_from_the_command_line() -> None:
    suite = small.mini_suite()
    changed = with_seeds(suite, "3,1")
    assert changed.seeds == (3, 1)
    assert Suite.model_validate({**changed.model_dump(mode="json"), "seeds": [0]}) == suite
    for bad in ("", "a", "1,1", "-1", "1,"):
        with pytest.raises(ConfigError, match="--seeds: expected distinct integers from 0"):
            with_seeds(suite, bad)


def test_true_is_taken_where_it_belongs() -> None:
    assert parse({**GOOD, "sample": {"grammar": True}}, "s.yaml").sample.grammar


@pytest.mark.parametrize("text", ["1" * 40, "9223372036854775808", "true", "0,0"])
def test_seeds_of_the_command_line_are_whole_numbers_of_64_bits(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds: expected distinct integers from 0, of at most 64 bits, as in 0,1"):
        with_seeds(parse(GOOD, "s.yaml"), text)
    assert with_seeds(parse(GOOD, "s.yaml"), str(2**63 - 1)).seeds == (2**63 - 1,)

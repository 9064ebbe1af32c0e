"""A package from outside with one part of each kind: it is found, checked, run by workers, and shown in the report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness import conformance, registry
from harness.errors import ConfigError
from harness.run.identity import foreign_parts
from harness.suite.cells import cells
from harness.suite.load import parse
from harness.suite.schema import Suite
from harness.system.provenance import parts
from model_zoo.settings import vlm as vlm_settings
from model_zoo.vlm import loading
from model_zoo.vlm.families import FAMILIES
from tests.commands.parts.test_skeleton import detmodes
from tests.support import small
from tests.support.chains import chain_of, stage_of, train_chain
from tests.support.packages import install
from tests.support.processes.ranks import LIMIT, torchrun

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).parent / "parts_outside"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
SMALL = {"domain": "plain", "train_images": 8, "val_images": 4, "calibration_images": 0}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that a test may edit, installed beside it."""
    copy = tmp_path / "package"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    install(copy, tmp_path / "site")
    return copy


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for folder in (package, package.parent / "site"):
        monkeypatch.syspath_prepend(str(folder))
    parts.digest_source.cache_clear()
    yield package
    parts.digest_source.cache_clear()
    for module in MODULES:
        sys.modules.pop(module, None)


def content_of(**changes: Any) -> dict[str, Any]:
    nsft = {"name": "nsft", "corrector": "first_outside", "steps": 1, "images": 2, "samples": 2}
    grpo = {"name": "grpo", "reward": "strict_outside", "steps": 1, "images": 2, "samples": 2}
    return {
        "suite": "outside",
        "benchmark": {"name": "shapes_outside", **SMALL},
        "models": ["detector_outside"],
        "objectives": [
            {"name": "sharpened_outside", "weight": 0.2, "then": grpo},
            {"name": "ce", "then": {"name": "again_outside", "steps": 1}},
            {"name": "ce", "label": "corrected", "then": nsft},
        ],
        "seeds": [0],
        "train": {"steps": 1, "batch_size": 2, "lr": 1e-5},
        "sample": {"samples": 2, "max_tokens": 8},
        "measures": ["crowding_outside"],
        "hypotheses": [
            {"id": "C", "claim": "fuller", "metric": "crowding_outside", "a": "sharpened_outside", "b": "ce"},
        ],
        **changes,
    }


def failing(outcomes: list[conformance.Outcome]) -> dict[str, str]:
    return {outcome.check: outcome.message for outcome in outcomes if outcome.state == "failed"}


@pytest.mark.usefixtures("installed")
def test_each_part_passes_its_checks() -> None:
    assert failing(conformance.check_objective("sharpened_outside")) == {}
    assert failing(conformance.check_reward("strict_outside")) == {}
    assert failing(conformance.check_benchmark("shapes_outside", SMALL)) == {}
    assert failing(conformance.check_stage("again_outside")) == {}
    assert failing(conformance.check_measure("crowding_outside")) == {}
    assert failing(conformance.check_corrector("first_outside")) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_its_models_pass_their_checks() -> None:
    assert failing(conformance.check(registry.find("model", "detector_outside"))) == {}
    assert failing(conformance.check_family("gemma_outside")) == {}


@pytest.mark.usefixtures("installed")
def test_a_record_has_every_part_and_its_source() -> None:
    """The digest is of the file, which is a module of its own: an edit of one part changes no other's cells."""
    suite = parse(content_of(), "s.yaml")
    by_row = {cell.label: foreign_parts(suite, cell) for cell in cells(suite)}
    shared = {"benchmark shapes_outside", "model detector_outside", "measure crowding_outside"}
    assert by_row["base"].keys() == shared
    assert by_row["sharpened_outside"].keys() == shared | {"objective sharpened_outside", "reward strict_outside"}
    assert by_row["ce"].keys() == shared | {"stage again_outside"}
    assert by_row["corrected"].keys() == shared | {"corrector first_outside"}
    described = by_row["ce"]["stage again_outside"]
    assert (described.package, described.version) == ("parts-outside", "0.3.0")
    assert described.reference == "stage_outside:AgainOutside"


# ---- stages --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("installed")
def test_a_stage_trains_like_one_of_ours() -> None:
    """What it does is what `sft` with cross-entropy does, to the last bit."""
    later = {"steps": 3, "lr": 1e-4, "warm_up": 0, "log_every": 1, "batch_size": 4}
    ours, theirs = small.fresh(), small.fresh()
    curve = train_chain(ours, chain_of({"name": "sft", **later}))
    assert train_chain(theirs, chain_of({"name": "again_outside", **later})) == curve
    weights = [dict(adapter.model.state_dict()) for adapter in (ours, theirs)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.usefixtures("installed")
def test_a_suite_with_a_stage_is_written_and_read_again() -> None:
    """As workers read it."""
    suite = parse(content_of(), "s.yaml")
    again = Suite.model_validate_json(suite.model_dump_json())
    assert again == suite
    assert again.objectives[1].then is not None
    assert type(again.objectives[1].then).__name__ == "AgainOutside"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("then", "complaint"),
    [
        ({"name": "again_outside", "steps": 0}, "then.steps: Input should be greater than or equal to 1, got 0"),
        ({"name": "again_outside", "stepz": 1}, "then.stepz"),
        ({"name": "agian_outside"}, "unknown stage 'agian_outside', did you mean 'again_outside'"),
    ],
)
def test_mistakes_in_its_settings_are_told(then: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(content_of(objectives=[{"name": "ce", "then": then}]), "s.yaml")
    assert complaint in str(caught.value)


def test_a_stage_that_breaks_is_named(installed: Path) -> None:
    source = installed / "stage_outside.py"
    source.write_text(source.read_text().replace("return FineTuning(", "return FineTuning(1 / 0, "))
    origin = "stage again_outside (parts-outside 0.3.0, entry point again_outside = stage_outside:AgainOutside)"
    with pytest.raises(ConfigError) as caught:
        stage_of(chain_of({"name": "again_outside", "steps": 1}))
    assert str(caught.value).startswith(f"{origin}: making it failed: ZeroDivisionError")


# ---- families ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("installed")
def test_a_family_is_named_like_one_of_ours() -> None:
    assert vlm_settings.problems({"family": "gemma_outside"}) == []
    (problem,) = vlm_settings.problems({"family": "gema_outside"})
    assert "did you mean 'gemma_outside'" in problem
    assert FAMILIES["gemma_outside"].question == "name all"


@pytest.mark.usefixtures("installed")
def test_one_family_more_changes_no_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    before = loading.toy_tokenizer(["sofa", "red_disc"]).get_vocab()
    monkeypatch.setitem(FAMILIES.ours, "one_more", FAMILIES["gemma_outside"])
    assert loading.toy_tokenizer(["sofa", "red_disc"]).get_vocab() == before


def test_the_size_of_an_image_may_be_a_list() -> None:
    family = FAMILIES["paligemma"]

    def side(size: object) -> int:
        return loading.image_side(SimpleNamespace(vision_config=SimpleNamespace(image_size=size)), family, None, True)

    assert side([64, 64]) == side((64, 64)) == side(64) == 64
    with pytest.raises(ConfigError, match=r"expected a model that reads square images, this one reads \[64, 32\]"):
        side([64, 32])


# ---- from the command line -------------------------------------------------------------------------------------------


def listed(kind: str, package: Path) -> str:
    done = detmodes("list", kind, path=(package.parent / "site", package), cwd=package.parent)
    assert (done.returncode, done.stderr) == (0, "")
    return " ".join(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("models", "detector_outside"), ("benchmarks", "shapes_outside"), ("objectives", "sharpened_outside")),
        *(("rewards", "strict_outside"), ("stages", "again_outside"), ("families", "gemma_outside")),
        ("measures", "crowding_outside"),
    ],
)
def test_lists_show_it(kind: str, name: str, package: Path) -> None:
    assert name in listed(kind, package)


@pytest.mark.slow
def test_workers_run_it_the_report_shows_it_and_an_edit_counts(package: Path, tmp_path: Path) -> None:
    """Two processes; a second run finds every cell finished, one after an edit computes the cells with that part."""
    (tmp_path / "outside.yaml").write_text(json.dumps(content_of()))
    run = ("run", "outside.yaml", "--output", "done", "--jobs", "2", "--quiet")
    place: dict[str, Any] = {"path": (tmp_path / "site", package), "cwd": tmp_path}
    done = detmodes(*run, **place)
    assert done.returncode == 0, done.stderr
    records = {path: path.read_text() for path in sorted((tmp_path / "done" / "cells").glob("*/record.json"))}
    named = {name for text in records.values() for name in json.loads(text)["parts"]}
    assert {name.partition(" ")[0] for name in named} == {
        *("benchmark", "corrector", "measure", "model", "objective", "reward", "stage"),
    }
    shown = detmodes("report", "done", "--full", **place).stdout
    assert "sharpened_outside" in shown
    assert "Measures of other packages (K = 2 samples)" in shown
    assert "crowding: Mentions of an answer for each object of the image" in " ".join(shown.split())
    assert "crowding_outside: sharpened_outside - ce > 0" in " ".join(shown.split())
    assert detmodes(*run, **place).returncode == 0
    assert {path: path.read_text() for path in records} == records

    source = package / "reward_outside.py"
    source.write_text(source.read_text().replace("** 2", "** 3"))
    again = detmodes(*run, **place)
    assert again.returncode == 0, again.stderr
    assert "reward strict_outside changed since" in again.stderr
    new = {path for path in (tmp_path / "done" / "cells").glob("*/record.json") if path not in records}
    assert len(new) == 1
    assert "strict_outside" in new.pop().read_text()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ray", "torchrun"])
def test_it_is_found_on_a_cluster_and_by_every_rank(way: str, package: Path, tmp_path: Path) -> None:
    content = content_of()
    first = {**content, "objectives": content["objectives"][:1], "hypotheses": []}
    (tmp_path / "outside.yaml").write_text(json.dumps(first))
    command = ["run", "outside.yaml", "--output", "done", "--quiet"]
    if way == "ray":
        begin = [sys.executable, "-P", "-m", "detmodes"]
        command += ["--executor", "ray"]
    else:
        begin = [*torchrun(2), "detmodes"]
    paths = map(str, (ROOT, tmp_path / "site", package))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [*begin, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    records = [json.loads(path.read_text()) for path in (tmp_path / "done" / "cells").glob("*/record.json")]
    assert {"objective sharpened_outside", "reward strict_outside"} <= {
        name for record in records for name in record["parts"]
    }

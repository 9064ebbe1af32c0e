"""Parts of other packages: found by their entry points, refused where a name is taken, blamed for what they raise."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import extensions, objectives, registry
from harness.commands.models import listing
from harness.errors import ConfigError
from harness.metrics.diagnosis.codebook import SampleErrors
from harness.metrics.samples.reward import REWARDS, rewards
from harness.run.identity import foreign_parts
from harness.suite.cells import cells
from harness.suite.load import parse
from harness.types import Box, Example, Instance, Mention, Parsed, TokenBatch
from tests.support import small
from tests.support.packages import write_package

NUMBERS = count()
Install = Callable[..., str]

OBJECTIVE = """
from harness.objectives.spec import ObjectiveSpec
from harness.settings import at_least


def scaled(at, *, scale):
    from harness.objectives.token import PerToken  # late: a suite is read without torch

    return PerToken({"scaled": at.nll}, {"scaled": scale})


PART = ObjectiveSpec("token", "-scale * log p_y", "us", {"scale": at_least(0, default=2.0)}, function=scaled)
"""
REWARD = """
from harness.metrics.samples.reward import Reward, f_score

PART = Reward(lambda truth, answers, verification: f_score(truth, answers, verification) / 2, "half of F", "us")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a module as a part of another package; returns how errors call it."""

    def put(kind: str, source: str, name: str = "theirs") -> str:
        module = f"theirs_{kind}_{next(NUMBERS)}"  # never imported before
        write_package(tmp_path, module, source, extensions.GROUPS[kind], f"{name} = {module}:PART")
        monkeypatch.syspath_prepend(str(tmp_path))
        return f"{kind} {name} ({module} 0.7, entry point {name} = {module}:PART)"

    return put


def batch() -> TokenBatch:
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, -1.0]], dtype=torch.float64)
    return TokenBatch(logits, torch.tensor([1, 2]))


def suite_of(**objective: Any) -> dict[str, Any]:
    return {
        "suite": "s",
        "benchmark": "shapes",
        "models": ["open_flamingo"],
        "seeds": [0],
        "objectives": [objective],
        "train": {"steps": 2, "batch_size": 2, "lr": 0.001},
    }


def test_an_objective_is_trained_with_like_one_of_ours(install: Install) -> None:
    """Cross-entropy times 2: by hand from the objective `ce`."""
    install("objective", OBJECTIVE)
    ce = objectives.build("ce")(batch()).mean()
    assert objectives.build("theirs")(batch()).mean() == pytest.approx(2 * ce.item(), rel=1e-12)
    assert objectives.build("theirs", scale=3)(batch()).mean() == pytest.approx(3 * ce.item(), rel=1e-12)
    assert objectives.ready("theirs", {}).settings == {"scale": 2.0}
    assert objectives.problems("theirs", {"scale": -1}) == ["theirs.scale: expected a finite number >= 0, got -1"]


def test_a_suite_that_names_it_is_read_without_torch(install: Install, tmp_path: Path) -> None:
    install("objective", OBJECTIVE)
    install("reward", REWARD)
    content = suite_of(name="theirs", then={"name": "grpo", "reward": "theirs"})
    program = (
        "import sys; sys.modules['torch'] = None\n"
        f"from harness.suite.load import parse; print(parse({content!r}, 's.yaml').objectives[0].name)"
    )
    paths = [str(Path(__file__).parents[2]), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {json.dumps(paths)}\n{program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("theirs\n", "")


ONE_LEFT_OUT = [Parsed((Mention("bed", 1, Box(0, 0, 10, 10)),), 0, False)]
IMAGE = Example(
    1, Path("1.png"), 64, 64, (Instance(1, 1, Box(0, 0, 10, 10)), Instance(2, 1, Box(30, 30, 9, 9))), frozenset()
)


def test_a_reward_pays_like_one_of_ours(install: Install) -> None:
    """One of two instances, nothing else: F = 2 * 1 / (1 + 2), and half of it."""
    install("reward", REWARD)
    assert rewards("f_score", [IMAGE], [ONE_LEFT_OUT]) == pytest.approx(2 / 3)
    assert rewards("theirs", [IMAGE], [ONE_LEFT_OUT]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("worth", "complaint"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("answers.malformed + 1.5", "ValueError: expected numbers in [0, 1], got 1.5 to 1.5"),
        ("answers.malformed * float('nan')", "ValueError: expected numbers in [0, 1], got nan to nan"),
        ("answers.malformed.sum()", "ValueError: expected one number for each sample, [1, 1]; got []"),
    ],
)
def test_a_reward_that_breaks_its_contract_is_named(install: Install, worth: str, complaint: str) -> None:
    origin = install(
        "reward",
        "from harness.metrics.samples.reward import Reward\n"
        f"PART = Reward(lambda truth, answers, verification: {worth}, '', '')\n",
    )
    with pytest.raises(ConfigError) as caught:
        rewards("theirs", [IMAGE], [ONE_LEFT_OUT])
    assert str(caught.value).startswith(f"{origin}: computing it failed: {complaint}")
    assert str(caught.value).endswith("; its contract: a Reward (harness.metrics.samples.reward)")


@pytest.mark.parametrize(
    ("kind", "source", "complaint"),
    [
        ("objective", "x = 1 / 0\n", "importing it failed: ZeroDivisionError: division by zero (MODULE.py, line 1)"),
        ("objective", "import no_such_module\n", "it needs no_such_module, which is not installed here"),
        ("objective", "PART = 3\n", "expected an ObjectiveSpec (harness.objectives.spec) with its function; got 3"),
        (
            "objective",
            "from harness.objectives.spec import ObjectiveSpec\nPART = ObjectiveSpec('token', 'e', 's')\n",
            "expected an ObjectiveSpec (harness.objectives.spec) with its function; got ObjectiveSpec(",
        ),
        (
            "objective",
            OBJECTIVE
            + "\nfrom dataclasses import replace\nPART = replace(PART, problems=lambda settings: settings['x'])",
            "problems(settings) failed: KeyError: 'x' (MODULE.py, line 15)",
        ),
        ("reward", "PART = len\n", "expected a Reward (harness.metrics.samples.reward); got <built-in"),
    ],
)
def test_a_part_that_is_none_is_told_with_the_suite(install: Install, kind: str, source: str, complaint: str) -> None:
    origin = install(kind, source)
    module = origin.partition("(")[2].split()[0]
    named = {"name": "ce", "then": {"name": "grpo", "reward": "theirs"}} if kind == "reward" else {"name": "theirs"}
    with pytest.raises(ConfigError) as caught:
        parse(suite_of(**named), "s.yaml")
    (problem,) = caught.value.problems
    assert f"{origin}: {complaint.replace('MODULE', module)}" in problem


def test_an_objective_that_fails_in_training_is_named(install: Install) -> None:
    origin = install("objective", OBJECTIVE.replace("at.nll", "at.no_such_thing"))
    with pytest.raises(ConfigError) as caught:
        objectives.build("theirs")(batch())
    assert f"{origin}: computing its loss failed: AttributeError: 'ScoredPositions' object has no" in str(caught.value)


@pytest.mark.parametrize(("kind", "name"), [("objective", "ce"), ("reward", "detection")])
def test_a_name_of_ours_is_refused(install: Install, kind: str, name: str) -> None:
    install(kind, {"objective": OBJECTIVE, "reward": REWARD}[kind], name)
    parts: Any = {"objective": objectives.OBJECTIVES, "reward": REWARDS}[kind]
    (problem,) = parts.problems(name)
    assert problem.startswith(f"{kind} {name}: expected one part of this name, got those of detmodes and theirs_{kind}")
    with pytest.raises(ConfigError, match="expected one part of this name"):
        _ = parts[name]


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        ("[1]", "TypeError: expected Corrections (harness.protocols), got 1"),
        ("[[]]", "TypeError: "),
        ("1 / 0", "ZeroDivisionError: division by zero (MODULE.py, line 1)"),
    ],
)
def test_a_corrector_that_fails_is_named(install: Install, returned: str, complaint: str) -> None:
    origin = install("corrector", f"def PART(codec, targets): return lambda *given: {returned}\n")
    corrector = registry.corrector("theirs", small.fitted().codec, "canonical")
    with pytest.raises(ConfigError) as caught:
        corrector(IMAGE, ONE_LEFT_OUT[0], SampleErrors((), (1,), (), 0, False), np.random.default_rng(0))
    module = origin.partition("(")[2].split()[0]
    assert str(caught.value).startswith(f"{origin}: correcting an answer failed: ")
    assert complaint.replace("MODULE", module) in str(caught.value)


def test_a_name_that_two_packages_bring_is_refused(install: Install) -> None:
    install("reward", REWARD)
    install("reward", REWARD)
    (problem,) = REWARDS.problems("theirs")
    assert problem.startswith("reward theirs: expected one part of this name, got those of theirs_reward_")
    assert REWARDS.problems("f_score") == []
    assert list(REWARDS).count("theirs") == 1


def test_listing_shows_them_and_what_is_wrong_with_others(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    origin = install("objective", OBJECTIVE)
    install("objective", "raise ValueError('no')", "broken")
    listing.show("objectives")
    shown = capsys.readouterr().out
    assert "-scale * log p_y" in shown
    assert f"us; {origin}" in shown
    assert "importing it failed: ValueError: no" in shown


def test_a_cell_is_identified_by_the_source_of_its_parts(install: Install) -> None:
    install("objective", OBJECTIVE)
    install("reward", REWARD)
    named = {"name": "theirs", "then": {"name": "grpo", "reward": "theirs"}}
    suite = small.mini_suite(objectives=[named], hypotheses=[])
    by_row = {cell.label: foreign_parts(suite, cell) for cell in cells(suite)}
    assert by_row.pop("base") == {}
    (parts,) = [described for row, described in by_row.items() if "theirs" in row]
    assert parts.keys() == {"objective theirs", "reward theirs"}
    assert {part.version for part in parts.values()} == {"0.7"}
    assert all(len(part.source) == 64 for part in parts.values())

"""Every registered adapter keeps the contract, and every check notices the one thing that it is there for."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import conformance, registry
from harness.commands.options import read_settings
from harness.commands.parts import check as command
from harness.conformance import CHECKS, Outcome, network, subject, vocabulary
from harness.errors import ConfigError
from harness.inference.device import accelerator_on
from harness.inference.padding import TargetBatch, target_batch
from harness.sequence import Codec
from harness.types import Category
from tests.conformance.broken import BROKEN
from tests.support.gru_adapter import GruDetector

SETTINGS = {"width": 64}


def failing(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {outcome.check: outcome.message for outcome in outcomes if outcome.state == "failed"}


# ---- what is shipped ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.names("model"))
def test_registered_models_keep_the_contract(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the steps are enough for ours: the loss falls to a third of its first value, or below."""
    monkeypatch.setattr(subject, "STEPS", 30)
    outcomes = conformance.check(registry.find("model", name))
    assert [outcome.check for outcome in outcomes] == list(CHECKS)
    assert failing(outcomes) == {}
    skipped = {outcome.check for outcome in outcomes if outcome.state == "skipped"}
    if name.startswith("oracle-"):
        assert skipped == {check for check in CHECKS if check not in ORACLES_ARE_ASKED}
    else:
        assert skipped <= {"hidden", "grammar", "scores", "refills"}
        if name == "open_flamingo":
            assert skipped == set()


ORACLES_ARE_ASKED = (
    *("protocol", "settings", "describe", "card", "mask", "round_trip", "parsing", "generate", "greedy", "seed"),
    *("neighbours", "grammar", "offline"),
)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"trains": "flamingo"}, {"weights": "random", "bins": 1000}])
def test_open_flamingo_keeps_it_with_other_settings(settings: dict[str, object]) -> None:
    assert failing(conformance.check(registry.find("model", "open_flamingo"), settings)) == {}


def test_the_names_are_those_of_lvis(shared: Callable[[str], Path]) -> None:
    """All of v1, category by category, and every name of v0.5."""
    v1 = json.loads(shared("data/lvis_v1_categories.json").read_text())
    v05 = json.loads(shared("data/lvis_val_100.json").read_text())["categories"]
    shipped = [category.names for category in registry.lvis_categories()]
    assert shipped[: len(v1)] == [tuple(dict.fromkeys((c["name"], *c["synonyms"]))) for c in v1]
    every = [name for names in shipped for name in names]
    assert len(v1) == 1203
    assert len(set(every)) == len(every) == 1937
    assert {name for c in v05 for name in (c["name"], *c["synonyms"])} <= set(every)


# ---- one broken adapter for every check ----------------------------------------------------------------------------


def some_categories() -> tuple[Category, ...]:
    return (Category(1, ("sofa", "couch"), "f"), Category(2, ("wiper_(for_windshield/screen)",), "r"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer names, and fewer but longer steps: the small network takes them."""
    monkeypatch.setattr(registry, "lvis_categories", some_categories)
    monkeypatch.setattr(subject, "STEPS", 25)
    monkeypatch.setattr(subject, "RATE", 3e-3)


def test_every_check_has_a_broken_adapter() -> None:
    assert list(BROKEN) == list(CHECKS)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("check", [check for check in CHECKS if check != "mask"])
def test_what_is_broken_fails_its_check(check: str, tmp_path: Path) -> None:
    made_by, message = BROKEN[check]
    with network.no_network() as tried:
        broken = subject.Subject(made_by, SETTINGS, accelerator_on("cpu"), tmp_path, tried)
        assert broken.codec
        outcome = conformance.run(check, broken)
    assert outcome.state == "failed"
    assert message in outcome.message


@pytest.mark.usefixtures("quick")
def test_what_is_sound_fails_no_check() -> None:
    assert failing(conformance.check(GruDetector, SETTINGS)) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("check", [check for check in CHECKS if check != "mask"])
def test_what_is_broken_fails_its_check_and_no_other(check: str) -> None:
    made_by, message = BROKEN[check]
    failures = failing(conformance.check(made_by, SETTINGS))
    assert list(failures) == [check], failures
    assert message in failures[check]


@dataclass(frozen=True)
class WrongMask:
    """Masks are made by the harness, for every adapter alike: here by one that forgets the end token."""

    def __call__(self, targets: Sequence[Sequence[int]], codec: Codec) -> TargetBatch:
        return target_batch([tokens[:-1] for tokens in targets], codec)


@pytest.mark.usefixtures("quick")
def test_a_wrong_mask_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "target_batch", WrongMask())
    made_by, message = BROKEN["mask"]
    failures = failing(conformance.check(made_by, SETTINGS))
    assert list(failures) == ["mask"], failures
    assert message in failures["mask"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("steps", "state"), [(12, "passed"), (3, "failed")])
def test_what_learns_slowly_is_given_three_times_the_steps(
    steps: int, state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its loss is at 71% of the first after 12 steps and 28% after 36; after 9 at 81%."""
    monkeypatch.setattr(subject, "STEPS", steps)
    learner = subject.Subject(GruDetector, SETTINGS, accelerator_on("cpu"), tmp_path)
    outcome = conformance.run("overfits", learner)
    assert outcome.state == state
    assert len(learner.train().losses) == 3 * steps
    assert outcome.message == "" or " in 9 steps on 4 pictures" in outcome.message


# ---- the machinery -------------------------------------------------------------------------------------------------


class NotBuilt(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        raise NotImplementedError("build: return the model")


def test_what_cannot_be_made_is_said_once() -> None:
    first, *rest = conformance.check(NotBuilt)
    assert (first.check, first.state) == ("protocol", "failed")
    assert first.message.startswith("build: return the model (test_conformance.py:")
    assert {(outcome.state, outcome.message) for outcome in rest} == {("skipped", "see `protocol`")}


def test_nothing_is_reached_without_a_network() -> None:
    before = socket.socket.connect, socket.getaddrinfo
    with socket.create_server(("127.0.0.1", 0)) as server, network.no_network() as tried:
        with pytest.raises(OSError, match="checked without a network"):
            socket.create_connection(server.getsockname())
        with socket.socket() as plain, pytest.raises(OSError, match="checked without a network"):
            plain.connect(server.getsockname())
    assert tried == ["127.0.0.1", "127.0.0.1"]
    assert (socket.socket.connect, socket.getaddrinfo) == before


def test_settings_are_read_as_yaml() -> None:
    read = read_settings(["bins=33", "trains=flamingo", "weights=/a=b.pt", "layers=[1, 2]", "path="])
    assert read == {"bins": 33, "trains": "flamingo", "weights": "/a=b.pt", "layers": [1, 2], "path": None}
    with pytest.raises(ConfigError) as caught:
        read_settings(["bins", "=3", "a=["])
    assert caught.value.problems == (
        "--set: expected KEY=VALUE, got 'bins'",
        "--set: expected KEY=VALUE, got '=3'",
        "--set a: expected a value in YAML, got '['",
    )


def test_wrong_settings_are_refused_before_anything_is_made() -> None:
    with pytest.raises(ConfigError, match=r"'bin', did you mean 'bins'"):
        command.check("adapter", "oracle-uniform", ["bin=33"])


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_table_and_exits_with_one_on_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.check("adapter", "oracle-collapsed", ["bins=33"]) == 0
    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name: NotBuilt if name == "broken" else find(kind, name))
    assert command.check("adapter", "broken") == 1
    shown = capsys.readouterr().out
    assert "oracle-collapsed" in shown
    assert "build: return the model" in shown
    assert f"1 failed, {len(CHECKS) - 1} skipped" in shown

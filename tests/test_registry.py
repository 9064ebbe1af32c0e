"""Names become classes in one place, and only when they are used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from benchmarks.shapes import Shapes
from harness import extensions, registry
from harness.errors import ConfigError
from model_zoo.oracle import OracleUniform


def test_what_is_shipped() -> None:
    assert {"shapes", "lvis"} <= registry.names("benchmark").keys()
    assert {"open_flamingo", "oracle-uniform", "oracle-collapsed"} <= registry.names("model").keys()
    assert {"quickstart", "photos", "base"} <= registry.shipped_suites().keys()


@pytest.mark.parametrize("kind", ["benchmark", "model"])
def test_every_name_has_a_class_that_checks_settings(kind: registry.Kind) -> None:
    for name in registry.names(kind):
        assert registry.problems(kind, name, {}) == []
        (problem,) = registry.problems(kind, name, {"no_such_setting": 1})
        assert "'no_such_setting'" in problem


def test_unknown_names_come_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'open_flamngo', did you mean 'open_flamingo'\? available: "):
        registry.find("model", "open_flamngo")
    (problem,) = registry.problems("benchmark", "xyz", {})
    assert problem.startswith("unknown benchmark 'xyz'; available: ")


def test_other_packages_can_add_but_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("mine", "model_zoo.oracle:OracleUniform", "detmodes.adapters"),
        EntryPoint("open_flamingo", "elsewhere:Impostor", "detmodes.adapters"),
        EntryPoint("other", "benchmarks.shapes:Shapes", "detmodes.benchmarks"),
    ]
    monkeypatch.setattr(
        extensions, "foreign_points", lambda kind: tuple(p for p in points if p.group == extensions.GROUPS[kind])
    )
    assert registry.find("model", "mine") is OracleUniform
    with pytest.raises(ConfigError, match="open_flamingo: expected one part of this name, got those of detmodes and "):
        registry.find("model", "open_flamingo")
    (problem,) = registry.problems("model", "open_flamingo", {})
    assert "elsewhere:Impostor" in problem
    assert registry.find("benchmark", "other") is Shapes
    assert "mine" not in registry.names("benchmark")


def test_names_are_made_with_their_settings() -> None:
    made = registry.benchmark("shapes", {"domain": "plain", "train_images": 2, "val_images": 2}, None)
    assert len(made.split("train")) == 2
    assert registry.model("oracle-uniform", made.categories, {"bins": 33}).codec.space.bins == 33


def test_listing_imports_no_model_and_no_data_library() -> None:
    heavy = {"transformers", "open_clip", "open_flamingo", "accelerate", "hotcoco", "lvis", "matplotlib"}
    program = (
        "import sys; from harness import registry; "
        "print(*registry.names('model'), *registry.names('benchmark'), *registry.shipped_suites()); "
        f"sys.exit(', '.join({heavy!r} & sys.modules.keys()) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "open_flamingo" in done.stdout

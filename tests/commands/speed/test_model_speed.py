"""`detmodes speed model` measures everything, and its table is a function of what it wrote. No speed is tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.commands.speed import model
from harness.errors import ConfigError
from model_zoo.flamingo.released_sizes import SIZES, released_size


@pytest.mark.parametrize(("shape", "width"), [("small", 64), ("tiny", 128)])
def test_the_command_prints_what_it_writes(
    shape: str, width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.json"
    assert model.command(shape, "cpu", None, images=2, repeats=1, output=output) == 0
    document = json.loads(output.read_text())
    assert capsys.readouterr().out == model.from_document(document) + "\n"
    training, memory = document["training"], document["memory"]
    # Forward and backward: at least three products of each weight that tokens pass with each of their positions.
    assert training["flop"] > 3 * 2 * width**2 * training["positions"]
    # But for the little that no target depends on.
    assert 0.9 * memory["trained weights"] < memory["gradients"] <= memory["trained weights"]
    assert memory["optimizer"] >= 2 * memory["gradients"]  # two moments, and a step for each tensor
    assert document["checkpoint"]["bytes"] >= memory["trained weights"] + 2 * memory["gradients"]
    assert document["evaluation"]["rows"] == 2 * (1 + model.SAMPLES)
    assert document["evaluation"]["mentions"] > document["evaluation"]["rows"]
    assert all(value > 0 for value in document["evaluation"].values())
    assert set(document["estimated"]) == set(document["fastest"]) == {"training", "greedy", "samples", "scoring"}
    # How near they are is not a test's business; an estimate that is off by a factor of ten counts something wrong.
    for name, seconds in document["fastest"].items():
        assert 0.1 < document["estimated"][name] / seconds < 10, name


@pytest.mark.parametrize("name", SIZES)
def test_released_sizes(name: str) -> None:
    size = released_size(f"random-{name}")
    assert size == SIZES[name]
    few = released_size(f"random-{name}:4")
    assert few is not None
    assert (few.layers, few.width) == (4, SIZES[name].width)
    assert [released_size(f"random-{name}:{layers}") for layers in ("0", "99", "x")] == [None] * 3
    assert released_size("random-5b") is released_size("toy-mpt") is None


def test_a_step_has_its_time_and_its_rate() -> None:
    """5.1 GFLOP in 51 ms are 100 GFLOP/s. Documents of older code have no number of threads, and no such row."""
    training = {"flop": 5.1e9, "seconds": 0.051}
    (row,) = model._step({"threads": 2, "training": training})
    assert row == ("a training step of 5.1 GFLOP, with 2 threads", "51 ms, 100 GFLOP/s", "")
    assert model._step({"training": training}) == []


@pytest.mark.parametrize(
    ("shape", "layers", "message"),
    [
        ("tinny", None, "unknown shape 'tinny', did you mean 'tiny'"),
        ("small", 2, "--layers: small has two"),
        ("tiny", 2, "--layers: tiny has three"),
        ("medium", 2, "--layers: medium has two"),
    ],
)
def test_a_wrong_shape_is_refused(shape: str, layers: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.command(shape, "cpu", layers, 1, 1, None)

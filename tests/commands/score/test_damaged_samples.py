"""Damaged samples end in figures or in one line."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.commands.score import measure as measuring
from harness.commands.score.measure import DiversityRequest
from harness.errors import DataError
from tests.benchmarks.documents import (
    write,
)
from tests.benchmarks.evaluators import mutations
from tests.commands.score.sample_lines import TRUTH, samples


def mutation(seed: int) -> bytes:
    """The samples with one or two edits in a line, or with bytes changed."""
    rng = random.Random(seed)
    content = samples()
    text = [json.dumps(line).encode() for line in content]
    if rng.random() < 0.3:
        return mutations.damaged(b"\n".join(text), rng)
    for _ in range(rng.choice([1, 1, 3])):
        place = rng.randrange(len(content))
        text[place] = mutations.edited(content[place], rng)
    return b"\n".join(text)


def outcome(seed: int, folder: Path) -> str:
    """ "figures", or a good error's text. Anything else raises."""
    path = folder / "samples.jsonl"
    path.write_bytes(mutation(seed))
    try:
        result = measuring.measure(DiversityRequest(samples=path, annotations=folder / "truth.json"))
    except DataError as error:
        text = str(error)
        assert text.startswith(f"{path}: "), text
        assert text.isprintable(), repr(text)
        assert len(text) < len(str(folder)) * 2 + 300, text
        return text
    json.dumps(result.document, allow_nan=False)
    return "figures"


def failures(seeds: range, folder: Path) -> Iterator[str]:
    write(folder / "truth.json", TRUTH)
    for seed in seeds:
        try:
            outcome(seed, folder)
        except Exception as error:  # whatever it is: that is what is tested
            yield f"mutation {seed}: {type(error).__name__}: {error}"


def test_mutations_are_of_every_kind(tmp_path: Path) -> None:
    write(tmp_path / "truth.json", TRUTH)
    outcomes = [outcome(seed, tmp_path) for seed in range(1000, 1100)]
    assert outcomes.count("figures") > 10
    assert len({text.split("expected")[0] for text in outcomes}) > 15


def test_100_mutations_end_in_figures_or_in_one_line(tmp_path: Path) -> None:
    assert list(failures(range(100), tmp_path)) == []


@pytest.mark.slow
def test_3000_mutations_end_in_figures_or_in_one_line(tmp_path: Path) -> None:
    assert list(failures(range(100, 3100), tmp_path)) == []

"""What ranks tell each other. No model library is imported, which would take most of the time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate import Accelerator

from harness.errors import ElsewhereError
from harness.evaluation import generation
from harness.evaluation.scored_samples import EvaluationSettings, sample_and_score
from harness.records.cache import NoCache, SharedCache
from harness.run.resume_folder import PartsCache, ResumeFolder
from harness.suite.schema import SampleSettings
from harness.system import interrupts, ranks
from harness.system.interrupts import Interrupted, Interrupts
from tests.support import tiny
from tests.support.processes.ranks import on_ranks

IMAGES = 7
"""In batches of two: four batches, which three ranks cannot share evenly."""


def three_ranks(folder: Path) -> Any:
    """Played on each of three."""
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    outcomes: dict[str, Any] = {
        "same": ranks.same(accelerator, f"of {rank}"),
        "gathered": ranks.gathered(accelerator, rank),
        "tensors": [ranks.same_tensor(accelerator, t if rank == 0 else None).tolist() for t in TENSORS],
        "signal": ranks.meet(accelerator, signal=(0, signal.SIGTERM, signal.SIGINT)[rank]),
        "interrupted": _interrupted(accelerator),
    }
    for name, action in {
        "at the end": lambda: None,
        "while they meet": lambda: ranks.meet(accelerator),
        "while they share": lambda: ranks.same(accelerator, 1),
        "while they gather": lambda: ranks.gathered(accelerator, 1),
    }.items():
        outcomes[f"one fails {name}"] = _one_fails(accelerator, action)
    outcomes["afterwards"] = ranks.same(accelerator, rank)
    outcomes["shared"] = _shared(accelerator, folder)
    return outcomes


TENSORS = (torch.tensor([[True, False]]), torch.tensor(1.5), torch.zeros(0, 2), torch.arange(3))


def _interrupted(accelerator: Accelerator) -> str:
    """The signal has reached rank 2 alone."""
    with interrupts.deferred(lambda number: ranks.meet(accelerator, number)) as caught:
        if accelerator.process_index == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            caught.check()
        except Interrupted as interrupted:
            return str(interrupted.number.name)
    return "nothing"


def _one_fails(accelerator: Accelerator, others: Callable[[], Any]) -> str:
    def make() -> None:
        if accelerator.process_index == 1:
            raise ValueError("a bad\nvalue")
        others()

    try:
        ranks.make_on_all(accelerator, make)
    except (ValueError, ElsewhereError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def _shared(accelerator: Accelerator, folder: Path) -> Any:
    """An evaluation of seven images, each rank making some; then again, when two parts are missing."""
    cache = PartsCache(ResumeFolder(folder, "", accelerator, Interrupts()), folder / "parts")
    codec = tiny.codec_of(["sofa", "couch"], ["cup"], bins=4)
    predictor = tiny.TableAdapter(codec, tiny.random_tables(IMAGES, tiny.pieces_of(codec).size, seed=0))
    examples = [tiny.example_of(image) for image in range(1, IMAGES + 1)]
    made: list[int] = []

    def counted(*arguments: Any) -> Any:
        made.append(arguments[1][0].image_id)
        return original(*arguments)

    original = generation.generate_batch

    def generated(cache: SharedCache) -> tuple[list[Any], list[Any], list[int]]:
        images: list[int] = []
        scored = sample_and_score(predictor, examples, EvaluationSettings(settings), images.append, cache)[1.0]
        return [[s.tokens for s in row] for row in scored.emitted], [str(row) for row in scored.scores], images

    settings = SampleSettings(samples=2, max_tokens=12, batch_images=2, temperatures=(0.5,), grammar=True)
    with patch("harness.evaluation.scored_samples.generate_batch", counted):
        first = generated(cache), made.copy()
        made.clear()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for path in sorted((folder / "parts").glob("said-*.json"))[1:3]:
                path.unlink()
        second = generated(cache), made.copy()
        return {"first": first, "second": second, "alone": generated(NoCache())}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(3, "tests.system.test_ranks:three_ranks", tmp_path_factory.mktemp("three"))


def test_values_reach_every_rank(three: list[dict[str, Any]]) -> None:
    assert [of_rank["same"] for of_rank in three] == ["of 0"] * 3
    assert [of_rank["gathered"] for of_rank in three] == [[0, 1, 2], [], []]
    assert [of_rank["tensors"] for of_rank in three] == [[[[True, False]], 1.5, [], [0, 1, 2]]] * 3
    assert [of_rank["afterwards"] for of_rank in three] == [0] * 3


def test_all_ranks_stop_for_a_signal_that_one_got(three: list[dict[str, Any]]) -> None:
    assert [of_rank["signal"] for of_rank in three] == [max(signal.SIGTERM, signal.SIGINT)] * 3
    assert [of_rank["interrupted"] for of_rank in three] == ["SIGTERM"] * 3


@pytest.mark.parametrize("where", ["at the end", "while they meet", "while they share", "while they gather"])
def test_what_fails_on_one_rank_fails_on_all(three: list[dict[str, Any]], where: str) -> None:
    """And they go on from there: nobody is left waiting."""
    elsewhere = "ElsewhereError: process 1: ValueError: a bad value"
    assert [of_rank[f"one fails {where}"] for of_rank in three] == [elsewhere, "ValueError: a bad\nvalue", elsewhere]


def test_seven_images_are_shared_without_duplicates_or_losses(three: list[dict[str, Any]]) -> None:
    """In batches of two, at two temperatures: of four batches each, rank 0 makes two and the others one. The answers
    are those of one process, to the last bit. Of what was kept, nothing is made again."""
    (answers, scores, images), _ = three[0]["shared"]["first"]
    alone = three[0]["shared"]["alone"]
    assert [answers, scores] == alone[:2]
    assert len(answers) == IMAGES
    assert sum(images) == sum(alone[2]) == 2 * IMAGES
    made = [of_rank["shared"]["first"][1] for of_rank in three]
    assert [len(images) for images in made] == [4, 2, 2]
    assert sorted(made[0] + made[1] + made[2]) == sorted([1, 3, 5, 7] * 2)
    (answers, scores, _), _ = three[0]["shared"]["second"]
    assert [answers, scores] == alone[:2]
    assert [len(of_rank["shared"]["second"][1]) for of_rank in three] == [1, 1, 0]
    assert three[1]["shared"]["first"][0][0] == []  # only rank 0 goes on with them

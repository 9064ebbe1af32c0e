"""What ranks tell each other:

python -m torch.distributed.run --standalone --nproc-per-node 3 -m tests.support.ranks.three_ranks FOLDER

Each leaves what it found in FOLDER/<rank>.json. No model library is imported, which would take most of the time."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from accelerate import Accelerator

from harness.errors import ElsewhereError
from harness.evaluation import generation
from harness.evaluation.evaluate import speak
from harness.records.cache import NoCache, SharedCache
from harness.run.kept import KeptFolder, PartsCache
from harness.suite.schema import SampleSettings
from harness.system import interrupts, ranks
from harness.system.interrupts import Interrupted, Interrupts
from tests.support import tiny

IMAGES = 7
"""In batches of two: four batches, which three ranks cannot share evenly."""


def three(folder: Path) -> Any:
    accelerator = Accelerator(cpu=True)
    own = accelerator.process_index
    found: dict[str, Any] = {
        "same": ranks.same(accelerator, f"of {own}"),
        "gathered": ranks.gathered(accelerator, own),
        "tensors": [ranks.same_tensor(accelerator, t if own == 0 else None).tolist() for t in TENSORS],
        "signal": ranks.meet(accelerator, signal=(0, signal.SIGTERM, signal.SIGINT)[own]),
        "interrupted": _interrupted(accelerator),
    }
    for name, action in {
        "at the end": lambda: None,
        "while they meet": lambda: ranks.meet(accelerator),
        "while they share": lambda: ranks.same(accelerator, 1),
        "while they gather": lambda: ranks.gathered(accelerator, 1),
    }.items():
        found[f"one fails {name}"] = _one_fails(accelerator, action)
    found["afterwards"] = ranks.same(accelerator, own)
    found["shared"] = _shared(accelerator, folder)
    return found


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
        ranks.together(accelerator, make)
    except (ValueError, ElsewhereError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def _shared(accelerator: Accelerator, folder: Path) -> Any:
    """An evaluation of seven images, each rank making some; then again, when two parts are missing."""
    cache = PartsCache(KeptFolder(folder, "", accelerator, Interrupts()), folder / "parts")
    codec = tiny.codec_of(["sofa", "couch"], ["cup"], bins=4)
    predictor = tiny.TableAdapter(codec, tiny.random_tables(IMAGES, tiny.pieces_of(codec).size, seed=0))
    examples = [tiny.example_of(image) for image in range(1, IMAGES + 1)]
    made: list[int] = []

    def counted(*arguments: Any) -> Any:
        made.append(arguments[1][0].image_id)
        return original(*arguments)

    original = generation.emit

    def said(cache: SharedCache) -> tuple[list[Any], list[Any], list[int]]:
        images: list[int] = []
        own = speak(predictor, examples, settings, 0, True, images.append, cache)[1.0]
        return [[s.tokens for s in row] for row in own.emitted], [str(row) for row in own.scores], images

    settings = SampleSettings(samples=2, max_tokens=12, batch_images=2, temperatures=(0.5,), grammar=True)
    with patch("harness.evaluation.evaluate.emit", counted):
        first = said(cache), made.copy()
        made.clear()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for path in sorted((folder / "parts").glob("said-*.json"))[1:3]:
                path.unlink()
        second = said(cache), made.copy()
        return {"first": first, "second": second, "alone": said(NoCache())}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    result = three(place)
    (place / f"{os.environ['RANK']}.json").write_text(json.dumps(result))
    dist.destroy_process_group()

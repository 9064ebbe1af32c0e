"""Which training images reinforcement learning is asked about: those whose samples of a fixed model neither all succeed
nor all fail, the others having nothing to teach (the set-up of Chen et al., ACL 2026; arXiv 2602.07464).

prompts.parquet, a row for each training image (or question about it):

    image_id, asked   the image, and the categories that it was asked about (null: everything)
    samples           how many the fixed model drew
    successes         how many of them have a reward of at least `success`
    used              whether it is neither none nor all
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from harness.errors import StageError
from harness.suite.stage_settings import Grpo, Prefilter
from harness.system.profiler import phase
from harness.training.checkpoints import random_numbers_kept
from harness.training.stage import Work, sampled_tokens, sampling_seed
from harness.training.stages.rollout import AT_A_TIME, keys, of_all_processes, rollout
from harness.types import Example

PROMPTS = "prompts"
"""The cell's table of them."""


def prompts_of(work: Work, settings: Grpo) -> Sequence[Example]:
    """Returns the training images that the stage draws from: all of them, or with `prefilter` those that it leaves.

    The fixed model is the cell's base, so that all rows of a suite with one seed are asked about the same images,
    whatever they learnt before. StageError where fewer are left than a step takes.
    """
    chosen = settings.prefilter
    if chosen is None:
        return work.examples
    table = work.cache.get_or_make(PROMPTS, lambda: _table(work, settings, chosen))
    used = {key for key, use in zip(keys(table), table["used"], strict=True) if use}
    left = [example for example in work.examples if example.key in used]
    if len(left) < settings.images:
        expected = f"expected at least the {settings.images} images of a step whose samples succeed and fail"
        raise StageError(f"then.prefilter: {expected}, got {len(left)} of {len(work.examples)}")
    return left


def prompt_counts(tables: Mapping[str, Path]) -> dict[str, int] | None:
    """Counts the images of the table, if it is among a cell's files by name: all, those that are used, and those whose
    samples all fail or succeed."""
    if PROMPTS not in tables:
        return None
    table = pd.read_parquet(tables[PROMPTS])
    return {
        "images": len(table),
        "used": int(table["used"].sum()),
        "all_failed": int((table["successes"] == 0).sum()),
        "all_succeeded": int((table["successes"] == table["samples"]).sum()),
    }


def _table(work: Work, settings: Grpo, chosen: Prefilter) -> pd.DataFrame:
    """Draws from the base; of several processes each about its share of the images."""
    base = work.fresh()
    base.model.eval()
    examples = work.examples[work.accelerator.process_index :: work.accelerator.num_processes]
    longest, seed = sampled_tokens(work), sampling_seed(work.seed, 0)
    lines = []
    with phase("sampling"), random_numbers_kept(work.accelerator.device):
        for first in range(0, len(examples), AT_A_TIME):
            batch = examples[first : first + AT_A_TIME]
            drawn = rollout(
                base,
                batch,
                settings.reward,
                chosen.samples,
                settings.temperature,
                max_tokens=longest,
                seed=seed,
            )
            successes = (drawn.rewards >= chosen.success).sum(dim=1).tolist()
            lines += [(example.image_id, example.asked, count) for example, count in zip(batch, successes, strict=True)]
    table = pd.DataFrame(lines, columns=["image_id", "asked", "successes"])
    table.insert(2, "samples", chosen.samples)
    table["used"] = (table["successes"] > 0) & (table["successes"] < chosen.samples)
    return of_all_processes(work, table)

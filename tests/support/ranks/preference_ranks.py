"""Run by torch.distributed.run: each rank draws from its share of the images and learns from its share of the pairs;
every rank leaves what it logged and the weights it ends with.

python -m torch.distributed.run --nproc-per-node 2 -m tests.support.ranks.preference_ranks FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.support import small
from tests.training.stages import test_grpo, test_preference

CHAIN = test_preference.suite({**test_preference.DPO, "batch_size": 4, "pairs_per_image": 2})


def outcome(folder: Path) -> dict[str, Any]:
    adapter = small.fitted()
    kept = small.checkpointer(folder)
    curve = test_preference.chained(adapter, CHAIN, kept)
    return {"curve": curve, "sums": [float(p.detach().double().sum()) for p in test_grpo.parameters(adapter)]}


if __name__ == "__main__":
    found = outcome(Path(sys.argv[1]) / "resume")
    (Path(sys.argv[1]) / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    dist.destroy_process_group()

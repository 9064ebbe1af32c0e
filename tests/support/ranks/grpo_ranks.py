"""Run by torch.distributed.run: each rank draws from its share of the images; every rank leaves what it logged and the
weights it ends with.

python -m torch.distributed.run --nproc-per-node 2 -m tests.support.ranks.grpo_ranks FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.support import small
from tests.training.stages import test_grpo

CHAIN = test_grpo.suite(updates=2, kl=0.1)


def outcome() -> dict[str, Any]:
    adapter = small.fitted()
    curve = test_grpo.chained(adapter, CHAIN)
    return {"curve": curve, "sums": [float(p.detach().double().sum()) for p in test_grpo.parameters(adapter)]}


if __name__ == "__main__":
    found = outcome()
    (Path(sys.argv[1]) / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    dist.destroy_process_group()

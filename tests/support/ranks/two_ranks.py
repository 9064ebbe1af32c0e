"""Run by torch.distributed.run: each rank takes its share of the batch; rank 0 saves the gradient of every objective.

python -m torch.distributed.run --nproc-per-node 2 -m tests.support.ranks.two_ranks FILE
"""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator

from tests.support import paths

if __name__ == "__main__":
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    gradients = {case: paths.step_gradient(case, accelerator, micro_batch=2) for case in paths.SETTINGS}
    if accelerator.is_main_process:
        torch.save(gradients, sys.argv[1])
    torch.distributed.destroy_process_group()

"""`images: skip`: pictures that cannot be read are left out before anything starts. (`images: fail`, the default, costs
nothing: a cell fails, naming the file, when it comes to it.)"""

from __future__ import annotations

from collections.abc import Callable

from harness import images
from harness.errors import ConfigError
from harness.protocols import Benchmark, LeavesOut

SPLITS = ("train", "val", "calibration")


def without_unreadable(
    benchmark: Benchmark, progress: Callable[[int, int], None] = lambda done, total: None
) -> Benchmark:
    """The benchmark without the images that `images.problem` finds something wrong with; itself where there are none.

    Decodes every picture of every split once; `progress(done, total)` after each. Raises ConfigError if the benchmark
    cannot leave images out, DataError if nothing would be left of a split.
    """
    if not isinstance(benchmark, LeavesOut):
        raise ConfigError(f"images: skip: the benchmark {benchmark.name} cannot leave images out; use images: fail")
    examples = [(split, example) for split in SPLITS for example in benchmark.split(split)]
    unreadable: dict[str, list[int]] = {}
    for done, (split, example) in enumerate(examples, 1):
        if images.problem(example):
            unreadable.setdefault(split, []).append(example.image_id)
        progress(done, len(examples))
    return benchmark.without(unreadable) if unreadable else benchmark

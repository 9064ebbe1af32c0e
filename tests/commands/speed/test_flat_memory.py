"""What an evaluation holds besides its tables does not grow with the number of images or samples."""

from __future__ import annotations

import pytest

from harness.commands.speed import runner


@pytest.mark.slow
@pytest.mark.parametrize("times", runner.EIGHTFOLD.values(), ids=runner.EIGHTFOLD)
def test_eight_times_the_work_needs_only_the_memory_of_its_tables(times: tuple[int, int]) -> None:
    little, much = runner.evaluated(1, 1), runner.evaluated(*times)
    assert much.value > 4 * little.value
    grown = much.peak_rss_mib - little.peak_rss_mib
    print(f"{little} {much}: {grown * 2**20 / (much.value - little.value):.0f} bytes per mention")
    assert grown < runner.allowed(little, much)

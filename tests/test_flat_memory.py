"""What an evaluation holds besides its tables does not grow with the number of images or samples."""

from __future__ import annotations

import pytest

from harness import timing

PER_MENTION = 4096
"""Bytes of all that is kept of emitted sequences: tokens, log-probabilities, mentions, scores, four tables."""


def evaluate(images: int, samples: int) -> int:
    """Evaluates the shipped model on a rendered set, as the last step of a cell does; how many mentions it tabled.
    Called in a process of its own."""
    from benchmarks.shapes import Shapes
    from harness.evaluate import measure
    from harness.suite import SampleSettings
    from model_zoo.open_flamingo import OpenFlamingo

    sets = {"domain": "plain", "train_images": 1, "val_images": images, "calibration_images": 0}
    benchmark = Shapes(sets)
    adapter = OpenFlamingo(benchmark.categories, {})
    settings = SampleSettings(samples=samples, max_tokens=32, batch_images=8)
    return len(measure(adapter, benchmark, settings, "category", 0, 1, None).tables["mentions"])


@pytest.mark.slow
@pytest.mark.parametrize(("images", "samples"), [(8, 1), (1, 8)])
def test_eight_times_the_work_needs_only_the_memory_of_its_tables(images: int, samples: int) -> None:
    """From 64 images on, for scores are computed for 64 sequences at a time; 8 MiB for the images' annotations and what
    an allocator leaves."""
    reference = "tests.test_flat_memory:evaluate"
    little, much = (timing.isolated(reference, 64 * i, 2 * k, threads=1) for i, k in ((1, 1), (images, samples)))
    assert much.value > 4 * little.value
    grown = (much.peak_rss_mib - little.peak_rss_mib) * 2**20
    print(f"{little} {much}: {grown / (much.value - little.value):.0f} bytes per mention")
    assert grown < PER_MENTION * (much.value - little.value) + 8 * 2**20

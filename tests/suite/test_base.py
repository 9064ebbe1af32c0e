"""What the shipped base must be able to do, measured on images that took no part in any choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.inference.teacher_forcing import top_k_masses
from harness.protocols import Adapter
from harness.report.renderers import text
from harness.run import runner
from harness.run.context import build, open_context
from harness.suite import load
from harness.training.objective import prepare


@pytest.mark.slow
def test_the_base_detects_plain_shapes_and_uses_all_names(tmp_path: Path) -> None:
    runner.run(open_context(load.load("base"), None, "cpu"), tmp_path)
    base = text.table(text.load(tmp_path))[0]
    assert base.label == "base"
    assert base.figures["AP"].low >= 0.70
    assert base.figures["name_diversity"].low >= 0.80


@pytest.mark.slow
def test_the_published_calibration_selects_twice_as_many_positions_as_ours() -> None:
    """Of target positions of 256 training images of `quickstart`. Ours takes the quantile of the mass that it masks on,
    so that its share is that quantile; a top-10 mass is larger than the top-2 mass that it is held against."""
    context = open_context(load.load("quickstart"), None, "cpu")
    base = build(context, context.suite.models[0])
    assert isinstance(base, Adapter)
    heldout, train = context.benchmark.split("calibration"), context.benchmark.split("train")[:256]
    official = {"calibration_top_k": 10, "calibration_positions": "all", "calibration_examples": 100}
    shares = []
    for top_k, others in ((5, {}), (2, official)):
        settings = {"top_k": top_k, "quantile": 0.3, **others}
        threshold = prepare("sed_sft", settings, base, heldout, context.suite.train, 0).threshold
        assert threshold is not None
        masses = top_k_masses(base, train, "canonical", 0, top_k)
        shares.append(float((masses < threshold).float().mean()))
    assert shares == pytest.approx([0.299, 0.602], abs=0.01)  # as README says

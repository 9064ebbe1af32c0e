"""Oracles answer in the coordinates of the model that they are compared with."""

from __future__ import annotations

from typing import Any

import pytest

from harness.run.context import build, open_context
from harness.sequence import CoordinateSpace, PatchSpace, Space
from harness.suite.cells import cells
from tests.support import small


@pytest.mark.parametrize(
    ("model", "space"),
    [
        ({"name": "open_flamingo", "weights": "random"}, CoordinateSpace(65)),
        ({"name": "open_flamingo", "weights": "random", "bins": 33}, CoordinateSpace(33)),
        ({"name": "vlm", "family": "kosmos2"}, PatchSpace(32)),  # bins that no setting names
        ({"name": "vlm", "family": "idefics"}, CoordinateSpace(1000)),
    ],
)
def test_oracles_take_the_coordinates_of_the_built_model(model: dict[str, Any], space: Space) -> None:
    context = open_context(small.mini_suite(models=[model]), None, "cpu")
    oracles = [cell.model for cell in cells(context.suite) if cell.role == "oracle"]
    assert len(oracles) == 2
    for oracle in oracles:  # in a process that has built no other model yet, too
        made = build(context, oracle)
        assert made.codec.space == space
        described = made.describe()
        assert described["bins"] == getattr(space, "bins", None)
        assert ("space" in described) == (not isinstance(space, CoordinateSpace))

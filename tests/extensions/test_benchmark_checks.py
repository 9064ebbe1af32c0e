"""A benchmark from outside may do anything wrong: each mistake is one line with image, object and expectation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.benchmark_checks import require_valid
from harness.errors import ConfigError, DataError
from harness.types import Box, Category, Example, Instance

EXAMPLE = Example(7, Path("7.png"), 64, 48, (Instance(3, 1, Box(1, 2, 3, 4)),), frozenset({2}), frozenset({1}))


class Outside:
    """A benchmark of somebody else, good as it is."""

    name = "outside"

    def __init__(self) -> None:
        self.categories: Any = (Category(1, ("cat",), None), Category(2, ("dog", "hound"), "f"))
        self.splits: dict[str, Any] = {"train": (EXAMPLE,), "val": (EXAMPLE,), "calibration": ()}
        self.described: Any = {"name": "outside", "n": 1}

    def split(self, name: str) -> tuple[Example, ...]:
        made: tuple[Example, ...] = self.splits[name]
        return made

    def evaluate(self, *arguments: object) -> None: ...

    def match(self, *arguments: object) -> None: ...

    def describe(self) -> Any:
        return self.described


def with_box(*sides: float) -> Callable[[Outside], None]:
    return lambda made: made.splits.update(val=(replace(EXAMPLE, instances=(Instance(3, 1, Box(*sides)),)),))


def with_example(**fields: Any) -> Callable[[Outside], None]:
    return lambda made: made.splits.update(val=(replace(EXAMPLE, **fields),))


def setting(name: str, value: Any) -> Callable[[Outside], None]:
    return lambda made: setattr(made, name, value)


AT = "benchmark outside: split val, image 7"
BAD: dict[str, tuple[Callable[[Outside], None], str]] = {
    "outside": (with_box(64, 2, 3, 4), f"{AT}, annotation 3: expected a box that meets its image of 64 x 48 pixels"),
    "above": (with_box(1, -9, 3, 4), f"{AT}, annotation 3: expected a box that meets its image"),
    "NaN": (with_box(1, float("nan"), 3, 4), f"{AT}, annotation 3: expected a box x, y, w, h of finite numbers"),
    "negative": (with_box(1, 2, -3, 4), f"{AT}, annotation 3: expected a box x, y, w, h"),
    "category": (
        with_example(instances=(Instance(3, 5, Box(1, 2, 3, 4)),)),
        f"{AT}, annotation 3: expected the id of one of its categories, got 5",
    ),
    "negative category": (with_example(negative=frozenset({9})), f"{AT}: negative: expected ids .*, got 9"),
    "size": (with_example(width=0), f"{AT}: expected a width and height of at least 1, got 0 x 48"),
    "image twice": (
        lambda made: made.splits.update(train=(EXAMPLE, EXAMPLE)),
        "split train, image 7: expected every image id once",
    ),
    "empty split": (lambda made: made.splits.update(val=()), "split val: expected at least one image, got none"),
    "no category": (setting("categories", ()), "expected at least one category"),
    "category twice": (
        setting("categories", (Category(1, ("a",), None), Category(1, ("b",), None))),
        r"categories\[1\]: expected every id once, got 1 again",
    ),
    "no name": (
        setting("categories", (Category(1, (), None),)),
        r"categories\[0\] \(id 1\): expected at least one name",
    ),
    "empty name": (setting("categories", (Category(1, (" ",), None),)), "no empty one"),
    "describe no JSON": (setting("described", {"path": Path("x")}), r"expected describe\(\) to give JSON values"),
    "describe NaN": (setting("described", {"x": float("nan")}), r"expected describe\(\) to give JSON values"),
    "describe a list": (setting("described", [1]), r"expected describe\(\) to give a dict of JSON values, got list"),
    "no method": (setting("match", None), "expected the methods split, evaluate, match, describe; it has no match"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    edit, message = BAD[name]
    made = Outside()
    edit(made)
    monkeypatch.setattr(registry, "find", lambda kind, name: lambda settings, data: made)
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        registry.benchmark("outside", {}, None)
    assert "\n" not in str(caught.value)


def test_a_good_one_passes() -> None:
    require_valid("outside", Outside())
    edge = replace(EXAMPLE, instances=(Instance(3, 1, Box(60, 40, 9, 9)), Instance(4, 1, Box(5, 5, 0, 0))))
    made = Outside()
    made.splits["val"] = (edge,)
    require_valid("outside", made)

"""YAML from anyone: numbers as YAML 1.2 says, every key once, and a small file stays small."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import ConfigError
from harness.registry import shipped_suites
from harness.suite.load import load
from harness.yaml_text import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-1", 0.1),  # a text in YAML 1.1
        ("1e3", 1000.0),
        ("3.0e-4", 0.0003),
        (".5", 0.5),
        ("-2.", -2.0),
        ("020", 20),  # 16 there
        ("0x1F", 31),
        ("0o17", 15),
        ("1:0", "1:0"),  # 60 there
        ("1_000", "1_000"),  # 1000 there
        ("no", "no"),  # false there
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("-.inf", -math.inf),
        ("2001-01-01", "2001-01-01"),  # a date there
        ("[1, a, 'b']", [1, "a", "b"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}", {"a": {"k": 1, "l": 2}, "b": {"k": 1, "l": 3}}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
    ],
)
def test_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    values = read_yaml(text, "suite.yaml")
    assert values == value
    assert type(values) is type(value)


@pytest.mark.parametrize("name", sorted(shipped_suites()))
def test_shipped_suites_say_the_same_as_before(name: str) -> None:
    text = shipped_suites()[name].read_text()
    assert read_yaml(text, name) == yaml.safe_load(text)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]\n" for b, c in zip("abcdefghijk", "bcdefghijkl", strict=True)
)

BAD = {
    "a key twice": ("a: 1\nb:\n  c: 1\n  c: 2\n", r"line 4: expected every key once, got 'c' again"),
    "a key twice at the top": ("suite: a\nsuite: b\n", r"line 2: expected every key once, got 'suite' again"),
    "one key written in two ways": ('a: 1\n"a": 2\n', r"line 2: expected every key once, got 'a' again"),
    "aliases of aliases": (BOMB, r"line \d+: expected at most 100,000 values, aliases written out"),
    "a value that contains itself": ("a: &a [*a]", "line 1: expected no value that contains itself"),
    "thousands of digits": ("a: " + "9" * 5000, "line 1: expected a number of at most 30 digits, got 5000"),
    "a list as a key": ("? [1, 2]\n: 3", "line 1: expected keys that are plain values"),
    "code": ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "nesting": ("[" * 5000, "expected YAML"),
    "an open bracket": ("a: [1", "expected YAML"),
    "megabytes": ("# x\n" * 300_000, "expected YAML of at most 1,000,000 characters, got 1,200,000"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_yaml_gets_one_short_line(tmp_path: Path, name: str) -> None:
    text, message = BAD[name]
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(shipped_suites()["quickstart"].read_text(), encoding="utf-8-sig")
    assert load(str(path)) == load("quickstart")

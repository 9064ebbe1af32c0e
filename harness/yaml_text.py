"""Reads YAML that may be anyone's: numbers and truth values as in YAML 1.2, every key once, nothing that explodes."""

from __future__ import annotations

import re
from typing import Any

import yaml

from harness.errors import ConfigError

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 100_000
"""Values of a document with every alias written out: a few lines of aliases of aliases are more than any memory."""
MOST_DIGITS = 30
SHOWN = 60
MERGE = "tag:yaml.org,2002:merge"
NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"


def read_yaml(text: str, where: str) -> Any:
    """Return the content of a YAML text of plain values. ConfigError, one line, with the line of a mistake."""
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{where}: expected YAML of at most {MOST_CHARACTERS:,} characters, got {len(text):,}")
    try:
        loader = PlainLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _require_small(node, where)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: expected YAML: {' '.join(str(error).split())[:300]}") from None


class PlainLoader(yaml.SafeLoader):
    """PyYAML knows YAML 1.1 only, where 1:0 is sixty, 020 is sixteen, 1e-1 is a text and `no` is false."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, in which every key stands once."""
        keys: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:  # `<<: *other` brings the keys of another mapping, which its own override
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str | int | float | bool | None):
                raise ValueError(f"line {line}: expected keys that are plain values")
            if key in keys:
                raise ValueError(f"line {line}: expected every key once, got {str(key)[:SHOWN]!r} again")
            keys.add(key)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Build a whole number, of no more digits than any setting has."""
        text = str(self.construct_scalar(node))
        if len(text) > MOST_DIGITS:
            line, digits = node.start_mark.line + 1, len(text)
            raise ValueError(f"line {line}: expected a number of at most {MOST_DIGITS} digits, got {digits}")
        return int(text, 0 if text[:2] in ("0x", "0o") else 10)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Build a number with a fraction, an exponent, or none of both (.inf, .nan)."""
        text = str(self.construct_scalar(node)).lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


PlainLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", rf"{NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.0123456789"),
    ("merge", "<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _regex = re.compile(f"^(?:{_pattern})$")
    PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _regex, list(_first))
PlainLoader.add_constructor("tag:yaml.org,2002:int", PlainLoader.construct_yaml_int)
PlainLoader.add_constructor("tag:yaml.org,2002:float", PlainLoader.construct_yaml_float)


def _require_small(root: yaml.Node, where: str) -> None:
    """Refuse a document that is large with every alias written out, or that contains itself."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def measure(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_nodes:
            raise ConfigError(f"{where}: line {node.start_mark.line + 1}: expected no value that contains itself")
        open_nodes.add(id(node))
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
        size = 1 + sum(map(measure, parts))
        if size > MOST_VALUES:
            line = node.start_mark.line + 1
            raise ConfigError(f"{where}: line {line}: expected at most {MOST_VALUES:,} values, aliases written out")
        sizes[id(node)] = size
        open_nodes.discard(id(node))
        return size

    measure(root)

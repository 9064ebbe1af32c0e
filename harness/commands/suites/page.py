"""docs/reference/suite.md, made from the JSON Schema of a suite file: every key, its default, values and meaning."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from harness import objectives, registry
from harness.commands.suites.schema import suite_schema
from harness.settings import Setting
from harness.suite.stage_settings import STAGES

PARTS = (
    *("Train", "AdamSettings", "Group", "MaxObjects", "Probe", "SampleSettings", "Prompt", "Tune", "Hypothesis"),
    *("Resampled", "EarlyStop", "Resources"),
)
KEYS = {
    "Train": "train",
    "AdamSettings": "train.optimizer",
    "Group": "train.groups",
    "MaxObjects": "train.max_objects",
    "Probe": "train.probe",
    "SampleSettings": "sample",
    "Prompt": "prompt",
    "Tune": "tune",
    "Hypothesis": "hypotheses",
    "Resampled": "resampled",
    "EarlyStop": "early_stops",
    "Resources": "resources",
    "NamedBenchmark": "benchmark",
    "NamedModel": "models",
    "NamedObjective": "objectives",
    "Prefilter": "then: grpo, prefilter",
}
"""What a part is called where it stands in a suite; a stage is called by its name."""
TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false", "object": "keys"}


def suite_page() -> str:
    """Makes the page."""
    schema = suite_schema()
    parts: dict[str, Any] = schema["$defs"]
    lines = [
        "# Suite file\n",
        "Made from `harness/suite`. A suite is a YAML file; `detmodes schema` prints its JSON Schema, with which an "
        "editor completes and checks it: put `# yaml-language-server: $schema=schema.json` into its first line, "
        "and `detmodes schema > schema.json` beside it. `detmodes run SUITE --set train.steps=20` sets any key "
        "otherwise; `detmodes run SUITE --dry-run` says what is wrong with a suite.\n",
        "## Top level\n",
        *_section(schema, parts),
    ]
    kinds: tuple[tuple[str, registry.Kind], ...] = (("NamedBenchmark", "benchmark"), ("NamedModel", "model"))
    for name, kind in kinds:
        lines += [f"## {KEYS[name]}\n", *_section(parts[name]["anyOf"][-1], parts)]
        for alternative in parts[name]["anyOf"][2:-1]:
            known_name = alternative["properties"]["name"]["const"]
            lines += [f"### {known_name}\n", *_settings_table(registry.known_settings(kind, known_name))]
    lines += ["## objectives\n", *_section(parts["NamedObjective"]["anyOf"][-1], parts)]
    for name, spec in objectives.OBJECTIVES.ours.items():
        lines += [f"### {name}\n", f"`{spec.equation}`\n\n{_sentence(spec.source)}\n"]
        lines += _settings_table(spec.settings, meanings=True)
    for name in PARTS:
        whole = parts[name]
        lines += [f"## {KEYS[name]}\n", *_section(whole.get("anyOf", [whole])[-1], parts)]
    lines += ["## then\n", "The stage that follows fine-tuning, an entry of `objectives`. Its keys, by its name:\n"]
    for stage, model in STAGES.ours.items():
        part = parts[model.__name__]
        lines += [f"### then: {stage}\n", f"{part['description']}\n\n`{model.equation}`\n"]
        lines += _table({key: value for key, value in part["properties"].items() if key != "name"}, parts, [])
    lines += [f"### {KEYS['Prefilter']}\n", *_section(parts["Prefilter"], parts)]
    return "\n".join(lines)


def _settings_table(settings: Mapping[str, Setting], meanings: bool = False) -> list[str]:
    """A row for each setting of an objective, a model or a benchmark; what these mean is said where they are made."""
    if not settings:
        return []
    lines = ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
    if not meanings:
        lines = ["| key | default | values |", "| --- | --- | --- |"]
    for key, setting in settings.items():
        values = ", ".join(f"`{name}`" for name in setting.names) or setting.expected
        row = [f"`{key}`", _default({"default": setting.default}), values, *([setting.meaning] if meanings else [])]
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""]


def _section(schema: dict[str, Any], parts: dict[str, Any]) -> list[str]:
    return [f"{schema['description']}\n", *_table(schema["properties"], parts, schema.get("required", []))]


def _table(fields: dict[str, Any], parts: dict[str, Any], required: list[str]) -> list[str]:
    lines = ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
    for key, field in fields.items():
        default = "required" if key in required else _default(field)
        meaning = field.get("description", "").replace("|", "\\|")
        lines.append(f"| `{key}` | {default} | {_values(field, parts)} | {meaning} |")
    return [*lines, ""]


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if default in (None, [], {}, ""):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _values(field: dict[str, Any], parts: dict[str, Any]) -> str:
    """What may stand there, in words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        title = KEYS.get(name, name)
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        return f"[{title}](#{anchor})"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if alternatives := field.get("anyOf", field.get("oneOf")):
        shown = [_values(each, parts) for each in alternatives if each.get("type") != "null"]
        return "[then](#then)" if "discriminator" in str(alternatives) else " or ".join(dict.fromkeys(shown))
    if field.get("type") == "array":
        inner: dict[str, Any] = field.get("items") or next(iter(field.get("prefixItems", [])), {})
        return f"list of {_values(inner, parts)}"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"keys, each {_values(field['additionalProperties'], parts)}"
    return f"{TYPES.get(field.get('type', ''), '')}{_range(field)}"


def _range(field: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    return f" {', '.join(bounds)}" if bounds else ""


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."

"""The JSON Schema of a suite file: pydantic's, with the meaning of every key, the names of objectives with the settings
of each, and what a file may abbreviate. An editor completes and checks a suite with it.

In:  the classes of harness.suite, and the objectives and benchmarks of detmodes (others may bring more).
Out: a dictionary, written to benchmarks/suites/schema.json, which the shipped suites point to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

import benchmarks
import model_zoo
from harness import objectives, registry
from harness.commands.suites.field_words import words_of
from harness.settings import Setting
from harness.suite.schema import Suite
from harness.suite.stage_settings import STAGES

FILE = "schema.json"
"""Its name beside the shipped suites."""
WRITTEN_BY_A_RUN = ("overrides", "epoch_images")
TRAIN = {"$ref": "#/$defs/Train"}


def as_text() -> str:
    """Returns the schema as `detmodes schema` prints it."""
    return json.dumps(suite_schema(), indent=1) + "\n"


def suite_schema() -> dict[str, Any]:
    """Builds the JSON Schema of a suite file."""
    schema = Suite.model_json_schema()
    parts: dict[str, Any] = schema["$defs"]
    classes = {part.__name__: part for part in _classes(Suite, {})}
    for name, part in [(Suite.__name__, schema), *parts.items()]:
        _describe(part, classes[name])
    for name in WRITTEN_BY_A_RUN:
        del schema["properties"][name]
    parts["NamedObjective"] = _objective(parts["NamedObjective"])
    parts["NamedModel"] = _model(parts["NamedModel"])
    parts["NamedBenchmark"] = _named(parts["NamedBenchmark"], "benchmark", list(benchmarks.BENCHMARKS))
    parts["MaxObjects"] = {"anyOf": [{"type": "integer", "minimum": 1}, parts["MaxObjects"]]}
    then = parts["NamedObjective"]["anyOf"][1]["properties"]["then"]
    for alternative in parts["NamedObjective"]["anyOf"][1:]:
        alternative["properties"]["then"] = {**then, "anyOf": [{"enum": list(STAGES)}, *then["anyOf"]]}
    words = parts["Sft"]["properties"]["objective"]["description"]
    parts["Sft"]["properties"]["objective"] = {
        "$ref": "#/$defs/NamedObjective",
        "default": "ce",
        "description": words,
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A suite of detmodes", **schema}


def setting_schema(setting: Setting) -> dict[str, Any]:
    """Describes a setting that harness.settings checks."""
    expected = ", ".join(setting.names) if setting.names else setting.expected
    schema: dict[str, Any] = {"description": f"{setting.meaning} {expected[0].upper()}{expected[1:]}.".strip()}
    if setting.names:
        schema["anyOf"] = [{"enum": list(setting.names)}, {"type": "string"}]  # a path, where a name may be one
    return schema if setting.default is None else {**schema, "default": setting.default}


def _classes(model: type[BaseModel], found_so_far: dict[type[BaseModel], None]) -> dict[type[BaseModel], None]:
    """The class and all that its fields are made of, in the order in which they are met."""
    found_so_far[model] = None
    for field in model.model_fields.values():
        for part in _parts_of(field.annotation):
            if part not in found_so_far:
                _classes(part, found_so_far)
    return found_so_far


def _parts_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for inner in getattr(annotation, "__args__", ()) for part in _parts_of(inner)]


def _describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Puts the meaning of a class and of its fields into its schema, in one line each; titles say nothing more."""
    schema["description"] = " ".join((model.__doc__ or "").split())
    schema.pop("title", None)
    words = words_of(model)
    for name, field in schema["properties"].items():
        field.pop("title", None)
        if name in words:
            field["description"] = words[name]
        if "$ref" in field:  # its own keys have defaults
            field.pop("default", None)


def _named(schema: dict[str, Any], kind: registry.Kind, names: list[str]) -> dict[str, Any]:
    """A part that may be given as a bare name: an alternative for each name of detmodes, with its settings, and one for
    the names of other packages, with any settings."""
    common = {key: value for key, value in schema["properties"].items() if key != "name"}
    alternatives = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, **_settings(registry.known_settings(kind, name)), **common},
            "required": ["name"],
            "additionalProperties": False,
        }
        for name in sorted(names)
    ]
    name = {**schema["properties"]["name"], "not": {"enum": sorted(names)}}
    foreign = {**schema, "properties": {"name": name, **common}, "required": ["name"]}
    return {"anyOf": [{"enum": sorted(names)}, {"type": "string"}, *alternatives, foreign]}


def _settings(settings: Mapping[str, Setting]) -> dict[str, Any]:
    return {key: setting_schema(setting) for key, setting in settings.items()}


def _model(schema: dict[str, Any]) -> dict[str, Any]:
    schema["properties"]["train"] = {**TRAIN, "description": schema["properties"]["train"]["description"]}
    return _named(schema, "model", [name for name in model_zoo.ADAPTERS if not name.startswith("oracle")])


def _objective(schema: dict[str, Any]) -> dict[str, Any]:
    """One alternative for each objective of detmodes, with its settings; any settings for those of other packages."""
    common = {key: value for key, value in schema["properties"].items() if key != "name"}
    common["train"] = {**TRAIN, "description": common["train"]["description"]}
    names = sorted(objectives.OBJECTIVES.ours)
    alternatives = [
        {
            "type": "object",
            "description": f"{objectives.OBJECTIVES.ours[name].equation} ({objectives.OBJECTIVES.ours[name].source})",
            "properties": {
                "name": {"const": name},
                **_settings(objectives.OBJECTIVES.ours[name].settings),
                **common,
            },
            "required": ["name"],
            "additionalProperties": False,
        }
        for name in names
    ]
    name = {"type": "string", "not": {"enum": names}, "description": schema["properties"]["name"]["description"]}
    foreign = {
        "type": "object",
        "description": f"{schema['description']} Its own settings stand beside these keys.",
        "properties": {"name": name, **common},
        "required": ["name"],
    }
    return {"anyOf": [{"type": "string"}, *alternatives, foreign]}

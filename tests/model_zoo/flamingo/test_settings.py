"""Settings of OpenFlamingo over tokenizers: every mistake at once."""

from __future__ import annotations

import importlib.util

import pytest

from model_zoo.flamingo.published import OpenFlamingoHf


def test_every_wrong_setting_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    settings = {
        "languge": "x",
        "language": "hub:owner/name",
        "vision": "ViT-L-14-quikgelu",
        "every": 0,
        "bins": True,
        "trains": "lora",
        "trust_remote_code": "yes",
        "weights": 3,
    }
    reported = "\n".join(OpenFlamingoHf.problems(settings))
    for part in (
        "'languge', did you mean 'language'",
        "language: expected hub:OWNER/NAME@REVISION (a tag or commit), got 'hub:owner/name'",
        "unknown vision 'ViT-L-14-quikgelu', did you mean 'ViT-L-14-quickgelu'?",
        "every: expected an integer from 1 to 64, got 0",
        "bins: expected an integer from 2 to 10000, got True",
        "trains: lora needs the package peft; install detmodes[lora]",
        "trust_remote_code: expected true or false, got 'yes'",
        "weights: expected a path or hub:OWNER/NAME@REVISION, got 3",
    ):
        assert part in reported
    assert len(reported.splitlines()) == 8
    (toy,) = OpenFlamingoHf.problems({"language": "toy-gpt_nex"})
    assert "did you mean 'toy-gpt_neox'" in toy
    (size,) = OpenFlamingoHf.problems({"image_size": 224})
    assert size == "image_size: toy has an image size of its own; it is for timm:NAME"
    assert OpenFlamingoHf.problems({"vision": "timm:resnet10t", "image_size": 96}) == []

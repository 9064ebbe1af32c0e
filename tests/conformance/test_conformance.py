"""Every registered adapter keeps the contract, and every check notices the one thing that it is there for."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness import conformance, registry
from harness.commands.options import read_settings
from harness.commands.parts import check as command
from harness.conformance import CHECKS, Outcome, network, subject, vocabulary
from harness.errors import ConfigError
from harness.inference.device import accelerator_on
from harness.inference.padding import TargetBatch, target_batch
from harness.sequence import Codec, CoordinateSpace, NameVocabulary
from harness.types import Box, Category, Example, Projection, Sample
from tests.support.gru_adapter import GruDetector

CARDS: list[dict[str, object]] = [
    {"settings": {"width": 64}, "parameters": 180_000, "coordinates": "-", "licence": "-", "weights": "-"},
]
"""Of the broken adapters below."""
SETTINGS = {"width": 64}


def failing(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {outcome.check: outcome.message for outcome in outcomes if outcome.state == "failed"}


# ---- what is shipped ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.names("model"))
def test_registered_models_keep_the_contract(name: str) -> None:
    outcomes = conformance.check(registry.find("model", name))
    assert [outcome.check for outcome in outcomes] == list(CHECKS)
    assert failing(outcomes) == {}
    skipped = {outcome.check for outcome in outcomes if outcome.state == "skipped"}
    if name.startswith("oracle-"):
        assert skipped == {check for check in CHECKS if check not in ORACLES_ARE_ASKED}
    else:
        assert skipped <= {"hidden", "grammar"}


ORACLES_ARE_ASKED = (
    *("protocol", "settings", "describe", "card", "mask", "round_trip", "parsing", "generate", "greedy", "seed"),
    *("neighbours", "grammar", "offline"),
)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"trains": "flamingo"}, {"weights": "random", "bins": 1000}])
def test_open_flamingo_keeps_it_with_other_settings(settings: dict[str, object]) -> None:
    assert failing(conformance.check(registry.find("model", "open_flamingo"), settings)) == {}


def test_the_names_are_those_of_lvis(shared: Callable[[str], Path]) -> None:
    """All of v1, category by category, and every name of v0.5."""
    v1 = json.loads(shared("data/lvis_v1_categories.json").read_text())
    v05 = json.loads(shared("data/lvis_val_100.json").read_text())["categories"]
    shipped = [category.names for category in registry.lvis_categories()]
    assert shipped[: len(v1)] == [tuple(dict.fromkeys((c["name"], *c["synonyms"]))) for c in v1]
    every = [name for names in shipped for name in names]
    assert len(v1) == 1203
    assert len(set(every)) == len(every) == 1937
    assert {name for c in v05 for name in (c["name"], *c["synonyms"])} <= set(every)


# ---- one broken adapter for every check ----------------------------------------------------------------------------


class Incomplete(GruDetector):
    """No `save`: the harness would take it for something that cannot be trained."""

    save = property(lambda self: self.missing)


class AcceptsAnything(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, {"width": settings.get("width", 64)})

    @staticmethod
    def problems(settings: Mapping[str, Any]) -> list[str]:
        del settings
        return []


class DescribedDifferently(GruDetector):
    def describe(self) -> dict[str, object]:
        return {**super().describe(), "object": id(self)}


class Cardless(GruDetector):
    __module__ = "tests.support.small"  # a module that has no CARDS


class Shifted(CoordinateSpace):
    def restore(self, numbers: Sequence[int], width: int, height: int) -> Box | None:
        return super().restore([min(number + 1, self.bins - 1) for number in numbers], width, height)


class OneBinOff(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, settings)
        self.codec = Codec(categories, self.tokens, Shifted(len(self.tokens.locations)))


class KnownNamesOnly(NameVocabulary):
    def decode_name(self, ids: Sequence[int]) -> str:
        return {index: name for name, index in self.ids.items()}[next(iter(ids)) if len(ids) == 1 else -1]


class RaisesOnRubbish(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, settings)
        names = self.tokens.entries[len(NameVocabulary.SPECIAL) + len(self.tokens.locations) :]
        self.codec = Codec(categories, KnownNamesOnly(names, len(self.tokens.locations)), self.codec.space)


class SquarePicturesOnly(GruDetector):
    def pixels(self, examples: Sequence[Example]) -> Tensor:
        assert all(example.width == example.height for example in examples)
        return super().pixels(examples)


def padded(tokens: Tensor, pad: int) -> Tensor:
    """1 for each row that ends with padding (two of it: one may have been sampled), else 0; float [B]."""
    return (tokens[:, -2:] == pad).all(1).float()


class InfiniteAtPadding(GruDetector):
    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        logits = super().logits(pixels, tokens)
        last = torch.arange(tokens.shape[1]) == tokens.shape[1] - 1
        return logits.masked_fill((padded(tokens, self.tokens.pad)[:, None] * last)[..., None] > 0, torch.inf)


class ForgetsTheBias(GruDetector):
    def hidden(self, pixels: Tensor, tokens: Tensor) -> Projection:
        states = [self.model.embedding(tokens), self.model.encoder(pixels)[:, None].expand(-1, tokens.shape[1], -1)]
        return Projection(self.model.decoder(torch.cat(states, dim=-1))[0], self.model.head.weight)


def tilted(logits: Tensor, rows: Tensor) -> Tensor:
    """The first entry of these rows becomes likelier."""
    return torch.cat([logits[..., :1] + 0.1 * rows[:, None, None], logits[..., 1:]], dim=-1)


class SeesPadding(GruDetector):
    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return tilted(super().logits(pixels, tokens), padded(tokens, self.tokens.pad))


class KnowsItsPlace(GruDetector):
    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return tilted(super().logits(pixels, tokens), (torch.arange(len(tokens)) >= 2).float())


class TakesTurns(GruDetector):
    """Pictures that are fewer than the rows are gone through again and again."""

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return super().logits(pixels.repeat(len(tokens) // len(pixels), 1, 1, 1), tokens)


Answers = list[list[Sample]]


class LeavesOneOut(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        answers = super().generate(examples, temperatures, seed, max_tokens, grammar)
        return [of_image[: max(2, len(of_image) - 1)] for of_image in answers]


class IgnoresTheLimit(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        return super().generate(examples, temperatures, seed, max(8, max_tokens), grammar)


class OnceGreedy(GruDetector):
    """Only the first entry of temperature 0 is."""

    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        return super().generate(
            examples, [temperatures[0], *(t or 1.0 for t in temperatures[1:])], seed, max_tokens, grammar
        )


class GreedyIsSampled(GruDetector):
    """The answer at temperature 0 is always the same one, drawn at temperature 1."""

    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        fixed = super().generate(examples, [1.0], 0, max_tokens, grammar)
        answers = super().generate(examples, temperatures, seed, max_tokens, grammar)
        return [
            [sample if heat else one for sample, heat in zip(of_image, temperatures, strict=True)]
            for of_image, (one,) in zip(answers, fixed, strict=True)
        ]


class OneAnswer(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        heats = list(dict.fromkeys(temperatures))
        answers = super().generate(examples, heats, seed, max_tokens, grammar)
        return [[of_image[heats.index(heat)] for heat in temperatures] for of_image in answers]


class IgnoresTheSeed(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        del seed
        return super().generate(examples, temperatures, 0, max_tokens, grammar)


class CountsItsBatch(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        return super().generate(examples, temperatures, seed + 100 * len(examples), max_tokens, grammar)


class OtherProbabilities(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        answers = super().generate(examples, temperatures, seed, max_tokens, grammar)
        return [
            [Sample(s.tokens, tuple(value - 0.001 for value in s.log_probs)) for s in of_image] for of_image in answers
        ]


class AsksForEverything(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        return super().generate([replace(e, asked=None) for e in examples], temperatures, seed, max_tokens, grammar)


class IgnoresTheGrammar(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        del grammar
        return super().generate(examples, temperatures, seed, max_tokens)


class WithoutGradient(GruDetector):
    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return super().logits(pixels, tokens).detach()


class Blind(GruDetector):
    def pixels(self, examples: Sequence[Example]) -> Tensor:
        return torch.zeros_like(super().pixels(examples))


class AllFrozen(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, settings)
        self.model.requires_grad_(False)


class FrozenDrifts(GruDetector):
    """Moves an embedding that it has frozen."""

    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, settings)
        self.model.embedding.requires_grad_(False)

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        if self.model.training:
            self.model.embedding.weight.data.add_(1e-4)
        return super().logits(pixels, tokens)


class ForgetsATensor(GruDetector):
    def save(self, path: Path) -> None:
        super().save(path)
        save_file({name: t for name, t in load_file(path).items() if name != "head.bias"}, path)

    def load(self, path: Path) -> None:
        if path.stat().st_size < 100:
            super().load(path)  # what is no weights file is refused
        self.model.load_state_dict(load_file(path), strict=False)


class LoadsAnything(GruDetector):
    def load(self, path: Path) -> None:
        self.model.load_state_dict(load_file(path))


class PhonesHome(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, settings)
        with suppress(OSError):
            socket.create_connection(("weights.example.org", 443), timeout=1)


BROKEN: dict[str, tuple[type[GruDetector], str]] = {
    "protocol": (Incomplete, "missing: save"),
    "settings": (AcceptsAnything, "expected one line that names the unknown setting 'no_such_setting', got []"),
    "describe": (DescribedDifferently, "expected the same by another base"),
    "card": (Cardless, "expected a literal CARDS in tests.support.small"),
    "mask": (GruDetector, "labels: expected the target"),  # see test_a_wrong_mask_is_noticed
    "round_trip": (OneBinOff, "within half a bin"),
    "parsing": (RaisesOnRubbish, "got KeyError"),
    "pixels": (SquarePicturesOnly, "(test_conformance.py:"),
    "logits": (InfiniteAtPadding, "expected finite logits"),
    "hidden": (ForgetsTheBias, "must have no bias"),
    "padding": (SeesPadding, "beside a longer one"),
    "batch": (KnowsItsPlace, "of each other alone and "),
    "rows": (TakesTurns, "one that serves its neighbours too"),
    "generate": (LeavesOneOut, "expected [4, 4, 4, 4] samples for the pictures, got [3, 3, 3, 3]"),
    "limit": (IgnoresTheLimit, "expected at most max_tokens = 2 tokens, got 8"),
    "greedy": (OnceGreedy, "expected one greedy answer"),
    "most_probable": (GreedyIsSampled, "nats below it"),
    "samples": (OneAnswer, "expected 8 samples at temperature 1 to differ"),
    "seed": (IgnoresTheSeed, "expected other samples from another seed"),
    "neighbours": (CountsItsBatch, "expected the same samples alone and beside others"),
    "log_probs": (OtherProbabilities, "expected the log-probabilities of `logits` within 0.0001"),
    "asked": (AsksForEverything, "expected an answer to a prompt that names categories"),
    "grammar": (IgnoresTheGrammar, "expected entries that can be read"),
    "overfits": (WithoutGradient, "does not require grad"),
    "picture": (Blind, "do `pixels` reach the logits"),
    "trains": (AllFrozen, "expected a parameter that requires a gradient, got none"),
    "frozen": (FrozenDrifts, "got 1 changed ones: embedding.weight"),
    "save_load": (ForgetsATensor, "what is not saved"),
    "bad_weights": (LoadsAnything, "expected a DataError, got SafetensorError"),
    "offline": (PhonesHome, "got attempts to reach weights.example.org"),
}


def some_categories() -> tuple[Category, ...]:
    return (Category(1, ("sofa", "couch"), "f"), Category(2, ("wiper_(for_windshield/screen)",), "r"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer names, and fewer but longer steps: the small network takes them."""
    monkeypatch.setattr(registry, "lvis_categories", some_categories)
    monkeypatch.setattr(subject, "STEPS", 25)
    monkeypatch.setattr(subject, "RATE", 3e-3)


def test_every_check_has_a_broken_adapter() -> None:
    assert list(BROKEN) == list(CHECKS)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("check", [check for check in CHECKS if check != "mask"])
def test_what_is_broken_fails_its_check_and_no_other(check: str) -> None:
    made_by, message = BROKEN[check]
    failures = failing(conformance.check(made_by, SETTINGS))
    assert list(failures) == [check], failures
    assert message in failures[check]


@dataclass(frozen=True)
class WrongMask:
    """Masks are made by the harness, for every adapter alike: here by one that forgets the end token."""

    def __call__(self, targets: Sequence[Sequence[int]], codec: Codec) -> TargetBatch:
        return target_batch([tokens[:-1] for tokens in targets], codec)


@pytest.mark.usefixtures("quick")
def test_a_wrong_mask_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "target_batch", WrongMask())
    made_by, message = BROKEN["mask"]
    failures = failing(conformance.check(made_by, SETTINGS))
    assert list(failures) == ["mask"], failures
    assert message in failures["mask"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("steps", "state"), [(12, "passed"), (3, "failed")])
def test_what_learns_slowly_is_given_three_times_the_steps(
    steps: int, state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its loss is at 71% of the first after 12 steps and 28% after 36; after 9 at 81%."""
    monkeypatch.setattr(subject, "STEPS", steps)
    learner = subject.Subject(GruDetector, SETTINGS, accelerator_on("cpu"), tmp_path)
    outcome = conformance.run("overfits", learner)
    assert outcome.state == state
    assert len(learner.train().losses) == 3 * steps
    assert outcome.message == "" or " in 9 steps on 4 pictures" in outcome.message


# ---- the machinery -------------------------------------------------------------------------------------------------


class NotBuilt(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        raise NotImplementedError("build: return the model")


def test_what_cannot_be_made_is_said_once() -> None:
    first, *rest = conformance.check(NotBuilt)
    assert (first.check, first.state) == ("protocol", "failed")
    assert first.message.startswith("build: return the model (test_conformance.py:")
    assert {(outcome.state, outcome.message) for outcome in rest} == {("skipped", "see `protocol`")}


def test_nothing_is_reached_without_a_network() -> None:
    before = socket.socket.connect, socket.getaddrinfo
    with socket.create_server(("127.0.0.1", 0)) as server, network.no_network() as tried:
        with pytest.raises(OSError, match="checked without a network"):
            socket.create_connection(server.getsockname())
        with socket.socket() as plain, pytest.raises(OSError, match="checked without a network"):
            plain.connect(server.getsockname())
    assert tried == ["127.0.0.1", "127.0.0.1"]
    assert (socket.socket.connect, socket.getaddrinfo) == before


def test_settings_are_read_as_yaml() -> None:
    read = read_settings(["bins=33", "trains=flamingo", "weights=/a=b.pt", "layers=[1, 2]", "path="])
    assert read == {"bins": 33, "trains": "flamingo", "weights": "/a=b.pt", "layers": [1, 2], "path": None}
    with pytest.raises(ConfigError) as caught:
        read_settings(["bins", "=3", "a=["])
    assert caught.value.problems == (
        "--set: expected KEY=VALUE, got 'bins'",
        "--set: expected KEY=VALUE, got '=3'",
        "--set a: expected a value in YAML, got '['",
    )


def test_wrong_settings_are_refused_before_anything_is_made() -> None:
    with pytest.raises(ConfigError, match=r"'bin', did you mean 'bins'"):
        command.check("adapter", "oracle-uniform", ["bin=33"])


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_table_and_exits_with_one_on_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.check("adapter", "oracle-collapsed", ["bins=33"]) == 0
    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name: NotBuilt if name == "broken" else find(kind, name))
    assert command.check("adapter", "broken") == 1
    shown = capsys.readouterr().out
    assert "oracle-collapsed" in shown
    assert "build: return the model" in shown
    assert f"1 failed, {len(CHECKS) - 1} skipped" in shown

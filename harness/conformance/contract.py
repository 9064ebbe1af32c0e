"""Checks of what a class declares: its members, settings, description and card."""

from __future__ import annotations

import json

from harness import registry
from harness.conformance.subject import ContractError, NotApplicableError, Subject, require
from harness.extension_checks import TRAINABLE
from harness.protocols import Adapter
from harness.sequence import Codec

UNKNOWN = "no_such_setting"


def protocol(subject: Subject) -> None:
    """It can be made, and has either no method of an Adapter or all of them."""
    made = subject.predictor
    require(isinstance(getattr(made, "codec", None), Codec), "codec: expected a harness.sequence.Codec")
    missing = [name for name in ("generate", "describe") if not callable(getattr(made, name, None))]
    absent = [name for name in TRAINABLE if not hasattr(made, name)]
    missing += absent if len(absent) < len(TRAINABLE) else []
    require(not missing, f"expected the methods of harness.protocols.Adapter, missing: {', '.join(missing)}")


def settings(subject: Subject) -> None:
    """`problems` accepts these settings, and names a key that it does not know."""
    ask = subject.made_by.problems
    problems = ask(subject.settings)
    require(problems == [], f"problems: expected none with the settings of this check, got {problems}")
    problems = ask({**subject.settings, UNKNOWN: 1})
    require(
        isinstance(problems, list) and len(problems) == 1 and UNKNOWN in problems[0],
        f"problems: expected one line that names the unknown setting {UNKNOWN!r}, got {problems}; "
        "a mistyped setting must not be ignored (see harness.errors.unknown)",
    )


def describe(subject: Subject) -> None:
    """`describe` is JSON, and the same for every base with these settings: it identifies the cells of a run."""
    description = subject.predictor.describe()
    try:
        text = json.dumps(description, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ContractError(f"describe: expected JSON values only, got: {error}") from None
    for when, other in (("when asked again", subject.predictor), ("by another base", subject.fresh())):
        again = json.dumps(other.describe(), sort_keys=True)
        require(again == text, f"describe: expected the same {when}, got {again} after {text}")


def card(subject: Subject) -> None:
    """CARDS in the module says what `detmodes list models` shows, and is right about the number of parameters."""
    cards = registry.cards(f"{subject.made_by.__module__}:{subject.made_by.__qualname__}")
    require(
        bool(cards),
        f"expected a literal CARDS in {subject.made_by.__module__} (see harness.types.Card); the first card describes "
        "the default settings",
    )
    fitting = [card for card in cards if card.settings == subject.settings]
    if not fitting:
        raise NotApplicableError("no card is about these settings")
    claimed = fitting[0].parameters
    actual = None
    if isinstance(subject.predictor, Adapter):
        actual = sum(parameter.numel() for parameter in subject.predictor.model.parameters())
    if actual is None or claimed is None:
        require(actual == claimed, f"CARDS: expected parameters: {actual}, got {claimed}")
    else:
        within = abs(claimed - actual) <= 0.1 * actual
        require(within, f"CARDS: expected parameters within 10% of {actual:,}, got {claimed:,}")


def offline(subject: Subject) -> None:
    """Nothing above tried to reach the network."""
    require(
        not subject.tried,
        f"expected no connection, got attempts to reach {', '.join(dict.fromkeys(subject.tried))}; download first, "
        "and give the path as a setting",
    )

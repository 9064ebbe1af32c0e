"""Checks of fine-tuning: that it happens, where it must and nowhere else, and that its result can be kept."""

from __future__ import annotations

from harness.conformance.subject import (
    FALL,
    MAX_TOKENS,
    ContractError,
    Subject,
    apart,
    as_adapter,
    require,
    target_log_probs,
)
from harness.errors import DataError


def overfits(subject: Subject) -> None:
    """Fine-tuning on four pictures brings the loss down to 60% of the first or less."""
    as_adapter(subject.predictor)
    training = subject.train()
    losses = training.losses
    require(
        training.learnt,
        f"expected the loss to fall below {FALL * losses[0]:.3f} ({FALL:.0%} of the first) in {len(losses)} steps on "
        f"{len(subject.few)} pictures, got {losses[-1]:.3f}; does `logits` predict the token after each position, with "
        "a gradient?",
    )


def picture(subject: Subject) -> None:
    """What a fine-tuned model predicts depends on the picture."""
    adapter, device = subject.trained.adapter, subject.accelerator.device
    first, second = subject.few[:2]
    tokens = subject.target(first)
    with_picture, other = (target_log_probs(adapter, [example], [tokens], device)[0] for example in (first, second))
    differ = apart(with_picture, other)
    require(
        differ > 10 * subject.tolerance,
        f"expected other probabilities for another picture, got the same within {differ:.3g}; do `pixels` reach "
        "the logits?",
    )


def trains(subject: Subject) -> None:
    """At least one parameter requires a gradient, and fine-tuning changes it."""
    named = dict(subject.adapter.model.named_parameters())
    trainable = [name for name, parameter in named.items() if parameter.requires_grad]
    require(bool(trainable), "expected a parameter that requires a gradient, got none")
    require(
        bool(subject.trained.trainable & subject.trained.changed),
        f"expected fine-tuning to change parameters, got all {len(trainable)} that require a gradient as they were; "
        "does `logits` compute with them, or with copies?",
    )


def frozen(subject: Subject) -> None:
    """Parameters that require no gradient are bit for bit what they were before fine-tuning."""
    moved = sorted(subject.trained.frozen & subject.trained.changed)
    require(
        not moved,
        f"expected frozen parameters to stay as they are, got {len(moved)} changed ones: {', '.join(moved[:3])}",
    )


def save_load(subject: Subject) -> None:
    """A fresh base that loads what a fine-tuned one saved gives the same log-probabilities and samples, to the bit."""
    tuned, device = subject.trained.adapter, subject.accelerator.device
    path = subject.folder / "weights.safetensors"
    tuned.save(path)
    require(path.is_file(), f"save: expected a file at the path that it is given, got none at {path.name}")
    loaded = as_adapter(subject.fresh())
    loaded.load(path)
    loaded.model.eval()
    targets = [subject.target(example) for example in subject.few]
    before, other = (target_log_probs(adapter, subject.few, targets, device) for adapter in (tuned, loaded))
    error = max(apart(a, b) for a, b in zip(before, other, strict=True))
    require(error == 0, f"expected the same log-probabilities to the bit, got {error:.3g}; what is not saved?")
    first, again = (a.generate(subject.few, [0.0, 1.0], 0, MAX_TOKENS) for a in (tuned, loaded))
    require(first == again, "expected the same samples, got others; what does `generate` use that is not saved?")


def bad_weights(subject: Subject) -> None:
    """Loading a file that is no weights file is a DataError that names it."""
    adapter, path = as_adapter(subject.predictor), subject.folder / "rubbish.safetensors"
    path.write_bytes(b"rubbish")
    try:
        adapter.load(path)
    except DataError as error:
        require(path.name in str(error), f"load: expected the path in the message, got: {error}")
    except Exception as error:
        raise ContractError(f"load: expected a DataError, got {type(error).__name__}: {error}") from error
    else:
        raise ContractError("load: expected a DataError for a file that is no weights file, got none")

"""Makes pairs of sequences about an image from a model's samples: the chosen one is to become likelier than the
rejected one. Pairs are stored as a table.

pairs.parquet has a row for each pair; columns of one sequence begin with chosen_ or rejected_:

    image_id, asked      the image, and the categories that the prompt names (null: none)
    samples              K: number of sequences that the model drew for the image
    *_tokens             token ids, the end token included if it was reached
    *_text               the same as a person reads it
    *_names, *_boxes     its mentions in order: names, and `x, y, w, h` of each in pixels, one after the other
    *_reward             reward of the sequence (harness.metrics.samples.reward)
    *_samples            how many of the K samples list the same names in the same order
    *_reference          log-probability of each token under the model that the stage began with, in nats
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import pandas as pd

from harness.errors import ConfigError, DataError
from harness.metrics.samples.reward import rewards
from harness.sequence import Codec
from harness.sequence.targets import members
from harness.suite.preference_settings import Divpo, Dpo, Gepo, Preference, Spl
from harness.training.stages.rollout import Rollout, keys
from harness.types import Example, Parsed

PAIRS = "pairs"
"""The name of the table."""
SIDES = ("chosen", "rejected")
OF_BOTH = ("tokens", "text", "names", "boxes", "reward", "samples")
REFERENCES = tuple(f"{side}_reference" for side in SIDES)
COLUMNS = ("image_id", "asked", "samples", *(f"{side}_{name}" for side in SIDES for name in OF_BOTH))
"""Columns that are made with a pair; the stage adds the REFERENCES."""


@dataclass(frozen=True, slots=True)
class RatedAnswer:
    """A parsed sequence about an image. samples: how many of the image's samples list the same names in the same
    order."""

    tokens: tuple[int, ...]
    parsed: Parsed
    reward: float
    samples: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair of sequences. samples: K of its image."""

    example: Example
    chosen: RatedAnswer
    rejected: RatedAnswer
    samples: int


# ---- what a model says -> pairs --------------------------------------------------------------------------------------


def pairs_of(drawn: Rollout, codec: Codec, settings: Preference, targets: str, seed: int) -> list[Pair]:
    """Makes the pairs of these images; an image without two suitable sequences has none.

    `dpo`, `spl`: members of the equivalence set, as `targets` says (see harness.sequence.targets), over the worst
    samples. `gepo`: different random members over the worst samples. `divpo`: the rarest good sample over the most
    common bad one.
    """
    pairs = []
    for example, samples, rated in zip(drawn.examples, drawn.samples, drawn.rewards.tolist(), strict=True):
        rated_samples = _read(example, [sample.tokens for sample in samples], rated, codec)
        if isinstance(settings, Divpo):
            both = rare_over_common(rated_samples, settings.good, settings.bad)
        else:
            chosen = _chosen(example, codec, settings, targets, seed)
            worth = [_reward(example, tokens, settings.reward, codec) for tokens in chosen]
            both = chosen_over_worst(_read(example, chosen, worth, codec, rated_samples), rated_samples)
        pairs += [Pair(example, *pair, len(samples)) for pair in both]
    return pairs


def _chosen(example: Example, codec: Codec, settings: Preference, targets: str, seed: int) -> list[tuple[int, ...]]:
    """Returns the members of the equivalence set that are to become likelier."""
    if isinstance(settings, Gepo):
        return list(dict.fromkeys(members(example, codec, "random", seed, 0, settings.group)))
    assert isinstance(settings, Dpo | Spl)
    return members(example, codec, targets, seed, 0, settings.pairs_per_image)


def chosen_over_worst(
    chosen: Sequence[RatedAnswer], samples: Sequence[RatedAnswer]
) -> list[tuple[RatedAnswer, RatedAnswer]]:
    """Pairs each chosen sequence with a different sample: the lowest reward first, of equal ones the first, as long
    as there are samples with a lower reward than the chosen one."""
    different = {answer.tokens: answer for answer in samples}
    worst = sorted(different.values(), key=lambda answer: answer.reward)
    return [(best, poor) for best, poor in zip(chosen, worst, strict=False) if poor.reward < best.reward]


def rare_over_common(samples: Sequence[RatedAnswer], good: float, bad: float) -> list[tuple[RatedAnswer, RatedAnswer]]:
    """Pairs the rarest of the samples with a reward of at least `good` with the most common of those with at most
    `bad`; no pair where either is missing. Of equally rare ones the better, of equally common ones the worse, then
    the first."""
    right = [answer for answer in samples if answer.reward >= good]
    wrong = [answer for answer in samples if answer.reward <= bad]
    if not right or not wrong:
        return []
    rarest = min(right, key=lambda answer: (answer.samples, -answer.reward))
    return [(rarest, max(wrong, key=lambda answer: (answer.samples, -answer.reward)))]


def _reward(example: Example, tokens: Sequence[int], name: str, codec: Codec) -> float:
    """Computes the reward of any sequence about an image. That of a target may be below 1, as its boxes are
    quantised."""
    return float(rewards(name, [example], [[codec.decode(tokens, example.width, example.height)]])[0, 0])


def _read(
    example: Example,
    sequences: Sequence[tuple[int, ...]],
    worth: Sequence[float],
    codec: Codec,
    among: Sequence[RatedAnswer] | None = None,
) -> list[RatedAnswer]:
    """Parses sequences and counts equal answers. among: the samples to count; the sequences themselves by default."""
    parsed = [codec.decode(tokens, example.width, example.height) for tokens in sequences]
    times = Counter(map(_names, parsed if among is None else (answer.parsed for answer in among)))
    both = zip(sequences, parsed, worth, strict=True)
    return [RatedAnswer(tokens, read, reward, times[_names(read)]) for tokens, read, reward in both]


def _names(parsed: Parsed) -> tuple[str, ...]:
    """Returns the names in order: two sequences with equal names count as the same answer, whatever their boxes."""
    return tuple(mention.name for mention in parsed.mentions)


# ---- pairs <-> the table ---------------------------------------------------------------------------------------------


def frame(pairs: Sequence[Pair], codec: Codec) -> pd.DataFrame:
    """Makes the table, without the REFERENCES."""
    rows = [
        (
            pair.example.image_id,
            pair.example.asked,
            pair.samples,
            *_values(pair.chosen, codec),
            *_values(pair.rejected, codec),
        )
        for pair in pairs
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _values(answer: RatedAnswer, codec: Codec) -> tuple[object, ...]:
    """Returns the values in the order of OF_BOTH."""
    boxes = [side for mention in answer.parsed.mentions for side in astuple(mention.box)]
    return answer.tokens, codec.text(answer.tokens), _names(answer.parsed), boxes, answer.reward, answer.samples


def sequences(table: pd.DataFrame) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yields the chosen and the rejected tokens of each pair."""
    both = zip(table["chosen_tokens"], table["rejected_tokens"], strict=True)
    return [(tuple(map(int, chosen)), tuple(map(int, rejected))) for chosen, rejected in both]


def read(path: Path) -> pd.DataFrame:
    """Reads the table from a file. DataError (one line) if it is invalid or empty."""
    expected = f"expected the {PAIRS}.parquet of a cell"
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError, NotImplementedError) as error:
        raise DataError(f"{path}: {expected}, got: {' '.join(str(error).split())[:200]}") from None
    if absent := [name for name in COLUMNS if name not in table]:
        raise DataError(f"{path}: {expected}; {', '.join(absent)} missing")
    if table.empty:
        raise DataError(f"{path}: {expected}, got one without a pair")
    return table


def problems(path: Path, examples: Sequence[Example]) -> list[str]:
    """Lists why a stage cannot learn from this file with these training images."""
    try:
        table = read(path)
    except DataError as error:
        return [str(error)]
    strange = set(keys(table)) - {example.key for example in examples}
    if not strange:
        return []
    one = min(strange)[0]
    return [f"{path}: expected pairs about training images, got {len(strange)} others, image {one} among them"]


def require_vocabulary(table: pd.DataFrame, codec: Codec, path: Path) -> None:
    """Raises ConfigError if these token ids have another meaning for this codec."""
    texts = (text for both in zip(table["chosen_text"], table["rejected_text"], strict=True) for text in both)
    for tokens, text in zip((tokens for both in sequences(table) for tokens in both), texts, strict=True):
        if (here := _text(codec, tokens)) != text:
            expected = "expected pairs of a model with this vocabulary"
            raise ConfigError(f"then.pairs: {path}: {expected}, got {text!r}, which is {here!r} here")


def _text(codec: Codec, tokens: tuple[int, ...]) -> str | None:
    try:
        return codec.text(tokens)
    except (LookupError, ValueError, OverflowError, TypeError):  # ids outside of the vocabulary
        return None

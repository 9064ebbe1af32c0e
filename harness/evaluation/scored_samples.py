"""Generates what an evaluation needs: the greedy answer and K samples for every image, and their scores.

In: a predictor, questions, and settings. Out: emitted sequences and scores of their mentions by temperature. Each
batch is stored as a JSON value in a cache, so that an interrupted evaluation resumes from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

from harness.evaluation.generation import generate_batch, split_into_batches
from harness.inference.confidence import MentionScore, score
from harness.protocols import Adapter, Predictor
from harness.records.cache import NoCache, SharedCache
from harness.sequence.experts import asked_of
from harness.suite.schema import SampleSettings
from harness.system.profiler import phase
from harness.types import Example, Sample


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """Settings of an evaluation.

    sample  number of samples, temperatures, size of batches
    score   source of the scores of detections: "category", "name", "sequence" or "constant"
    seed    of the samples
    last    whether to measure what only the last step has: scores of samples, their consensus, every temperature
    measures  names of other packages' measures that are computed too
    """

    sample: SampleSettings
    score: str = "category"
    seed: int = 0
    last: bool = True
    measures: tuple[str, ...] = ()

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Returns the temperatures at which K samples are drawn."""
        return self.sample.curve if self.last else (self.sample.temperature,)

    def scored(self, temperature: float) -> slice:
        """Tells which of the greedy answer and the K samples at a temperature are scored. The greedy answer is the
        same at every temperature."""
        if temperature != self.sample.temperature:
            return SAMPLED
        return ALL if self.last else GREEDY_ANSWER


@dataclass(frozen=True, slots=True)
class ScoredSamples:
    """A model's samples at one temperature for every question (for every image, with the open prompt).

    emitted  by question, the greedy answer and then K samples
    scores   of their mentions; None where a sequence's scores are not needed
    """

    emitted: list[list[Sample]]
    scores: list[list[list[MentionScore] | None]]


GREEDY_ANSWER, SAMPLED, ALL, NONE = slice(0, 1), slice(1, None), slice(0, None), slice(0, 0)


def sample_and_score(
    predictor: Predictor,
    questions: Sequence[Example],
    settings: EvaluationSettings,
    progress: Callable[[int], None] = lambda images: None,
    cache: SharedCache | None = None,
) -> dict[float, ScoredSamples]:
    """Generates all samples of an evaluation by temperature; batches in the cache are not generated again.

    Where several processes share the batches, each of them calls this, and the one that goes on has the answers.
    """
    cache = NoCache() if cache is None else cache
    by_temperature = {}
    batches = split_into_batches(predictor, questions, settings.sample, cache.processes)
    for temperature in settings.temperatures:
        named = {f"said-{temperature}-{_name(batch)}": batch for batch in batches}
        makers = {name: partial(_make_batch, predictor, batch, temperature, settings) for name, batch in named.items()}
        sizes = {name: len(batch) for name, batch in named.items()}
        by_temperature[temperature] = _read_batches(cache.get_or_make_each(makers, partial(_count, progress, sizes)))
    return by_temperature


def _name(batch: Sequence[Example]) -> str:
    """Of no other batch: questions about one image have no category in common, and the sizes of batches may change."""
    return "-".join(map(str, (*batch[0].key[:2], "of", len(batch))))


def _count(progress: Callable[[int], None], sizes: Mapping[str, int], name: str) -> None:
    progress(sizes[name])


def _make_batch(
    predictor: Predictor, batch: Sequence[Example], temperature: float, settings: EvaluationSettings
) -> list[list[Any]]:
    """For each question and sample: tokens, log-probabilities, and the fields of each mention's score or None; of a
    mixture, the expert too.

    A sequence that several samples emit is scored once (of a mixture: once for each expert). Scores are for detections:
    where there are no boxes, none are made.
    """
    scored = settings.scored(temperature) if predictor.codec.boxed else NONE
    with phase("generation"):
        emitted = generate_batch(predictor, batch, temperature, settings.sample, settings.seed)
    different = {
        (image, sample.tokens, sample.expert): sample
        for image, of_image in enumerate(emitted)
        for sample in of_image[scored]
    }
    with phase("scoring"):
        examples = [asked_of(batch[image], sample) for (image, *_), sample in different.items()]
        scores_of_different = _score(predictor, examples, list(different.values()), settings.score)
    scores = dict(zip(different, scores_of_different, strict=True))
    chosen = range(settings.sample.samples + 1)[scored]
    return [
        [
            (
                sample.tokens,
                sample.log_probs,
                scores[image, sample.tokens, sample.expert] if index in chosen else None,
                *(() if sample.expert is None else (sample.expert,)),
            )
            for index, sample in enumerate(of_image)
        ]
        for image, of_image in enumerate(emitted)
    ]


def _score(
    predictor: Predictor, examples: Sequence[Example], samples: Sequence[Sample], source: str
) -> list[list[tuple[float | None, ...]]]:
    """The fields of each mention's score, for one sample of each example."""
    sequences = [sample.tokens for sample in samples]
    parsed = [
        predictor.codec.decode(tokens, example.width, example.height)
        for tokens, example in zip(sequences, examples, strict=True)
    ]
    if not isinstance(predictor, Adapter):
        return [[CERTAIN] * len(answer.mentions) for answer in parsed]
    log_probs = [sample.log_probs for sample in samples]
    scores = score(predictor, examples, sequences, parsed, source, log_probs)
    return [[astuple(mention) for mention in of_sequence] for of_sequence in scores]


CERTAIN = (1.0, 1.0, 1.0)
"""Of a predictor without probabilities."""


def _read_batches(values: Sequence[list[list[Any]]]) -> ScoredSamples:
    """What batches were kept as."""
    rows = [row for batch in values for row in batch]
    emitted = [[Sample(tuple(tokens), tuple(log_p), *expert) for tokens, log_p, _, *expert in row] for row in rows]
    scores = [[None if of is None else [MentionScore(*m) for m in of] for _, _, of, *_ in row] for row in rows]
    return ScoredSamples(emitted, scores)

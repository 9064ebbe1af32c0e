"""Measures how much the K name sequences of an image repeat each other: self-BLEU, distinct n-grams and the Vendi
score.

A token is a whole name, however many words it has. All three figures depend on K, so compare models at equal K only.

Shape legend: I images, K samples per image, M names, g n-grams; a row is a sample of an image, image * K + sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.special import entr

from harness.metrics.samples.mentions import Floats, Integers, ratio

MAX_ORDER = 4
"""Longest n-gram of BLEU."""

CHUNK = 8_000
"""Sequences that are processed at a time: with 10 names each about 50 MB."""


@dataclass(frozen=True, slots=True)
class NameSequences:
    """The names that K samples of each of I images list, including samples without a name.

    image [M], sample [M]  indices, ascending; within a sample in the order in which it lists the names
    name  [M]              code of the name: equal names have equal codes
    images, samples        I and K >= 1
    """

    image: Integers
    sample: Integers
    name: Integers
    images: int
    samples: int

    @property
    def row(self) -> Integers:
        """[M]"""
        return self.image * self.samples + self.sample

    @property
    def lengths(self) -> Integers:
        """Counts the names of each sample, [I, K]."""
        counts = np.bincount(self.row, minlength=self.images * self.samples)
        return counts.reshape(self.images, self.samples)


def self_bleu(sequences: NameSequences) -> Floats:
    """Computes self-BLEU of each image, [I]: how much of a sample the other samples contain, in [0, 1] (Zhu et al.,
    2018).

    Mean over the image's non-empty samples of the sentence BLEU of the sample against the other non-empty ones:

        BP * exp(mean over n = 1..min(4, length) of log p_n),  BP = min(1, exp(1 - reference length / length))

    p_n is the share of the sample's n-grams that are matched, each at most as often as in the one reference that
    has it most often; the j-th order without a match has p_n = 2^-j / n-grams (smoothing "exp"), and without any
    match BLEU is 0. The reference length is the closest one, the shorter of two. Equals sacrebleu's
    `sentence_bleu(use_effective_order=True)` / 100. nan where fewer than two samples are non-empty.

    Grows with K: more references match more n-grams.
    """
    return _by_chunk(_self_bleu, sequences)


def distinct(sequences: NameSequences, n: int) -> Floats:
    """Computes distinct-n of each image, [I]: different n-grams of names over all n-grams of its K samples (Li et
    al., 2016).

    In (0, 1]; nan where no sample has n names. It falls with K: further samples add fewer and fewer new n-grams.
    """

    def of_chunk(chunk: NameSequences) -> Floats:
        gram, row = _ngrams(chunk, n)[-1]
        _, first = np.unique(gram, return_index=True)
        different, total = (np.bincount(r // chunk.samples, minlength=chunk.images) for r in (row[first], row))
        return ratio(different, total)

    return _by_chunk(of_chunk, sequences)


def vendi(sequences: NameSequences) -> Floats:
    """Computes the Vendi score of each image, [I]: the effective number of different samples, in [1, K] (Friedman &
    Dieng, 2023).

        exp(-sum_i l_i log l_i),  l the eigenvalues of G / K

    G [K, K] is the cosine similarity of the samples' counts of names and of pairs of adjacent names, where a mark
    before the first and one after the last name are paired too: an empty sample has the one pair of marks. 1 where
    all samples are equal, K where no two share a name or are both empty. Always defined. Grows with K, which bounds it.
    """
    return _by_chunk(_vendi, sequences)


def _by_chunk(figure: Callable[[NameSequences], Floats], sequences: NameSequences) -> Floats:
    """Computes the figure [I] for a bounded number of images at a time."""
    return np.concatenate([figure(chunk) for chunk in _chunks(sequences)])


def _chunks(sequences: NameSequences) -> Iterator[NameSequences]:
    """Yields about CHUNK sequences at a time, never splitting an image; one empty chunk where there is no image."""
    step = max(1, CHUNK // sequences.samples)
    for first in range(0, max(1, sequences.images), step):
        images = min(step, sequences.images - first)
        names = slice(*np.searchsorted(sequences.image, [first, first + images]))
        image, sample, name = sequences.image[names] - first, sequences.sample[names], sequences.name[names]
        yield NameSequences(image, sample, name, images, sequences.samples)


def _ngrams(sequences: NameSequences, longest: int) -> list[tuple[Integers, Integers]]:
    """Returns (gram [g], row [g]) of all n-grams, for n = 1..longest.

    Equal n-grams of an image have equal numbers; n-grams of different images never have.
    """
    row, name = sequences.row, _numbered(sequences.name)
    gram = single = _numbered(sequences.image * len(name) + name)
    grams = [(gram, row)]
    for n in range(2, longest + 1):
        gram = _numbered(gram[:-1] * len(name) + single[n - 1 :])  # numbers are below M, so the products fit
        inside = row[: len(gram)] == row[n - 1 :]  # not from one sample into the next
        grams.append((gram[inside], row[: len(gram)][inside]))
    return grams


def _numbered(values: Integers) -> Integers:
    """Replaces values by numbers 0, 1, ...; equal values get equal numbers."""
    return np.unique(values, return_inverse=True)[1]


def _self_bleu(sequences: NameSequences) -> Floats:
    lengths = sequences.lengths
    total = np.maximum(lengths[..., None] - np.arange(MAX_ORDER), 0)  # [I, K, 4]
    grams = _ngrams(sequences, MAX_ORDER)
    matched = np.stack([_matched(*of_order, lengths.shape) for of_order in grams], axis=-1)
    smoothed = 0.5 ** np.cumsum(matched == 0, axis=-1)
    precision = ratio(np.where(matched > 0, matched, smoothed), total)  # nan where the sample is too short
    log_mean = ratio(np.where(total > 0, np.log(precision), 0.0).sum(axis=-1), (total > 0).sum(axis=-1))
    shortfall = np.maximum(ratio(_reference_lengths(lengths), lengths) - 1, 0.0)
    bleu = np.where(matched[..., 0] > 0, np.exp(log_mean - shortfall), 0.0)  # [I, K]; 0 for an empty sample
    non_empty = (lengths > 0).sum(axis=-1)
    return np.where(non_empty > 1, ratio(bleu.sum(axis=-1), non_empty), np.nan)


def _matched(gram: Integers, row: Integers, shape: tuple[int, ...]) -> Integers:
    """Counts the n-grams (gram [g], row [g]) of each sample that occur in the image's other samples, shape [I, K].

    Sort the samples that have an n-gram by its count. The last sample is matched as often as the one before has the
    n-gram; every other sample is matched completely in the last.
    """
    rows = math.prod(shape)
    key, count = np.unique(gram * rows + row, return_counts=True)
    gram, row = np.divmod(key, max(1, rows))
    order = np.lexsort((count, gram))
    gram, row, count = gram[order], row[order], count[order]
    continues, last = np.diff(gram, prepend=-1) == 0, np.diff(gram, append=-1) != 0
    most = np.where(last, np.where(continues, np.roll(count, 1), 0), count)
    matched = np.bincount(row, weights=most, minlength=rows).astype(np.int64)
    return matched.reshape(shape)


def _reference_lengths(lengths: Integers) -> Floats:
    """Returns, for each sample, the length closest to its own among the image's other non-empty samples, the shorter
    of two; [I, K].

    The closest length is a neighbour in the order of lengths. Infinite where there is no other; arbitrary for an
    empty sample.
    """
    order = np.argsort(lengths, axis=-1)
    ordered = np.take_along_axis(lengths, order, axis=-1).astype(np.float64)
    end = np.full((len(ordered), 1), np.inf)
    shorter = np.concatenate([-end, ordered[:, :-1]], axis=-1)
    shorter[shorter == 0] = -np.inf
    longer = np.concatenate([ordered[:, 1:], end], axis=-1)
    closest = np.empty_like(ordered)
    np.put_along_axis(closest, order, np.where(ordered - shorter <= longer - ordered, shorter, longer), axis=-1)
    return closest


def _vendi(sequences: NameSequences) -> Floats:
    images, samples = sequences.images, sequences.samples
    [(name, row)] = _ngrams(sequences, 1)
    pair, pair_row = _ngrams(_marked(sequences), 2)[1]
    column = np.concatenate([name, pair + len(name)])
    place = np.concatenate([row, pair_row]), column
    counts = csr_array((np.ones(len(column)), place), shape=(images * samples, 1 + column.max(initial=0)))
    products = (counts @ counts.T).tocoo()  # between the samples of an image: two images share no n-gram
    similarity = np.zeros((images, samples, samples))
    similarity[products.row // samples, products.row % samples, products.col % samples] = products.data
    squares = np.diagonal(similarity, axis1=1, axis2=2)
    similarity /= np.sqrt(squares[:, :, None] * squares[:, None, :])
    eigenvalues = np.maximum(np.linalg.eigvalsh(similarity), 0.0) / samples  # rounding leaves some below 0
    return np.asarray(np.exp(entr(eigenvalues).sum(axis=-1)))


def _marked(sequences: NameSequences) -> NameSequences:
    """Adds a mark before the first name of each sequence and one after the last."""
    rows = np.arange(sequences.images * sequences.samples)
    row = np.concatenate([rows, sequences.row, rows])
    name = np.concatenate([np.zeros_like(rows), _numbered(sequences.name) + 2, np.ones_like(rows)])
    order = np.argsort(row, kind="stable")
    image, sample = np.divmod(row[order], sequences.samples)
    return NameSequences(image, sample, name[order], sequences.images, sequences.samples)

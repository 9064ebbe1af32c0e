"""What each of an image's samples adds to the others: a determinant of their kernel as a reward for diversity.

After Parker-Holder et al., NeurIPS 2020 (arXiv 2002.00632), who add the determinant of a population's kernel to its
reward: it is the squared volume that the members span, which pairwise distances do not see.

Shape legend: I images, K samples per image, N instances.
"""

from __future__ import annotations

import numpy as np

from harness.metrics.samples.matching import Verification
from harness.metrics.samples.mentions import Answers, Floats

SHRINKAGE = 0.99
"""Weight of the samples' similarities beside the identity, which keeps the kernel of equal samples invertible."""
DECIMALS = 9
"""What is kept: equal samples must not differ by rounding, which an advantage would make as large as any difference."""


def group_novelty(answers: Answers, verification: Verification) -> Floats:
    """Computes det(kernel of all samples) / det(kernel of the others) of each sample, rescaled to [0, 1], [I, K].

    The kernel of two samples is 0.99 times their cosine similarity as sets of (instance, name) pairs of verified
    mentions, plus 0.01 where they are the same sample. The ratio is the squared distance of a sample from what the
    others span: 0 for one that repeats another exactly (up to the 0.01), 1 for one that shares no pair with any. 0 for
    a sample without a verified mention: noise adds nothing.

    The paper adds the determinant itself, one number for the whole group. As an advantage is a reward minus the mean of
    its group, that would change nothing in GRPO; so each sample gets its own factor of it: the ratios of the samples
    taken one after the other multiply to the determinant. Only what is verified counts, where the paper takes
    behavioural embeddings.
    """
    images, samples = answers.malformed.shape
    rows = np.flatnonzero(verification.instance >= 0)
    mentions = answers.mentions
    _, name = np.unique(mentions.name[rows], return_inverse=True)
    pair = verification.instance[rows] * (int(name.max(initial=0)) + 1) + name
    novelty = np.zeros((images, samples))
    starts = np.searchsorted(mentions.image[rows], np.arange(images + 1))
    for image in range(images):
        of_image = slice(starts[image], starts[image + 1])
        different, column = np.unique(pair[of_image], return_inverse=True)
        features = np.zeros((samples, len(different)))
        features[mentions.sample[rows][of_image], column] = 1.0
        novelty[image] = novelty_of(features)
    return novelty


def novelty_of(features: Floats) -> Floats:
    """The same of the features [K, D] of one image's samples, [K]; 0 where a sample has none."""
    length = np.sqrt((features**2).sum(axis=1))
    unit = features / np.where(length > 0, length, 1.0)[:, None]
    kernel = SHRINKAGE * (unit @ unit.T)
    np.fill_diagonal(kernel, 1.0)
    # det(K) / det(K without i) is one over the i-th entry of the inverse's diagonal (Cramer's rule).
    ratio = 1.0 / np.diagonal(np.linalg.inv(kernel))
    least = 1 - SHRINKAGE**2  # of a sample that one other repeats; more repetitions come below it
    novelty: Floats = np.where(length > 0, np.clip((ratio - least) / (1 - least), 0.0, 1.0), 0.0)
    return novelty.round(DECIMALS)

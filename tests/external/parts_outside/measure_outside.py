"""A measure of another package: how many mentions an answer has for each object of its image."""

from __future__ import annotations

import numpy as np

from harness.metrics.image_measures import ImageMeasure
from harness.metrics.samples.matching import Verification
from harness.metrics.samples.mentions import Answers, Floats, Truth, ratio


def value(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    del verification
    images = len(truth.image_ids)
    mentions = np.bincount(answers.mentions.image, minlength=images) / answers.samples
    return ratio(mentions, np.bincount(truth.image, minlength=images))


MEASURE = ImageMeasure(
    value, meaning="Mentions of an answer for each object of the image; mean over samples.", heading="crowding"
)

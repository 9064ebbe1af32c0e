"""A model of another package: one of detmodes' own, by another name."""

from __future__ import annotations

from model_zoo.flamingo.toy import OpenFlamingo

CARDS: list[dict[str, object]] = [
    {
        "settings": {},
        "parameters": 2_080_000,
        "coordinates": "65 bins, y x y x",
        "licence": "Apache-2.0",
        "weights": "as open_flamingo",
    },
]


class DetectorOutside(OpenFlamingo):
    """See model_zoo.flamingo.toy."""

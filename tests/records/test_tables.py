"""Ids of a table become places in the record's lists; whatever has no place is refused, and no number is made up."""

from __future__ import annotations

import pandas as pd
import pytest

from harness.records.tables import _indices

IDS = (30, 10, 20)


@pytest.mark.parametrize("kind", ["int64", "Int64", "float64", "object"])
def test_ids_become_places(kind: str) -> None:
    assert _indices(pd.Series([10, 30, 20, 10], dtype=kind), IDS).tolist() == [1, 0, 2, 1]
    assert _indices(pd.Series([], dtype=kind), ()).tolist() == []


@pytest.mark.parametrize("stranger", [5, 15, 40])
def test_an_id_without_a_place_is_named(stranger: int) -> None:
    for ids in (IDS, ()):
        with pytest.raises(KeyError, match=str(stranger)):
            _indices(pd.Series([stranger, stranger]), ids)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, None, "ten"])
def test_what_is_no_id_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        _indices(pd.Series([10, value]), IDS)

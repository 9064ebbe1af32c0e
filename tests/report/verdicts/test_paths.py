"""Figures read off a path at a target AP: values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.report.paths import interpolate_path


@pytest.mark.parametrize(
    ("ap", "target", "expected"),
    [
        ([0.0, 0.4, 0.6], 0.5, 0.3),  # half way between 0.4 and 0.2
        ([0.0, 0.4, 0.6], 0.1, 0.85),  # a quarter of the way from 1.0 to 0.4
        ([0.0, 0.4, 0.6], 0.4, 0.4),  # at a step
        ([0.0, 0.4, 0.6], 0.6, 0.2),  # at the last one
        ([0.0, 0.4, 0.6], 0.9, 0.2),  # beyond the end: the nearest step
        ([0.1, 0.4, 0.6], 0.0, 1.0),  # before the base
        ([0.0, 0.6, 0.4], 0.5, 0.5),  # passed twice: the first time, 5/6 of the way from 1.0 to 0.4
        ([0.0, 0.6, 0.4], 0.9, 0.4),  # never reached: the step with the largest AP, not the last one
        ([0.5, 0.5, 0.6], 0.5, 1.0),  # no way to go: where it begins
    ],
)
def test_by_hand(ap: list[float], target: float, expected: float) -> None:
    figure = np.array([1.0, 0.4, 0.2])
    interpolated = interpolate_path(np.array(ap)[:, None], figure[:, None], np.array([target]))
    assert interpolated == pytest.approx([expected])


def test_every_weighting_is_read_by_itself() -> None:
    ap, figure = np.array([[0.0, 0.0], [0.4, 0.2], [0.6, 0.8]]), np.array([[1.0, 0.8], [0.4, 0.5], [0.2, 0.1]])
    at_once = interpolate_path(ap, figure, np.array([0.5, 0.3]))
    alone = [interpolate_path(ap[:, [w]], figure[:, [w]], np.array([t]))[0] for w, t in ((0, 0.5), (1, 0.3))]
    assert at_once.tolist() == alone


def test_what_is_undefined() -> None:
    """A figure at a step that takes no part does not matter; an AP on the path does."""
    ap, nan = np.array([[0.0], [0.4], [0.6]]), np.nan
    figure = np.array([[nan], [nan], [0.2]])
    assert interpolate_path(ap, figure, np.array([0.6])) == pytest.approx([0.2])
    assert interpolate_path(ap, figure, np.array([0.7])) == pytest.approx([0.2])
    assert np.isnan(interpolate_path(ap, figure, np.array([0.5])))
    assert np.isnan(interpolate_path(np.array([[nan], [0.4], [0.6]]), np.ones((3, 1)), np.array([0.5])))


def test_a_path_of_one_step() -> None:
    assert interpolate_path(np.array([[0.3]]), np.array([[0.7]]), np.array([0.5])) == pytest.approx([0.7])

from __future__ import annotations

import numpy as np
import pytest

from inference.running.calibration import normalise_operating_points, sigmoid


def test_operating_point_becomes_one_half() -> None:
    points = np.array([0.02, 0.3, 0.9])
    assert normalise_operating_points(points[None], points).tolist() == [[0.5, 0.5, 0.5]]


def test_ends_stay_where_they_are() -> None:
    ends = np.array([[0.0], [1.0]])
    np.testing.assert_allclose(normalise_operating_points(ends, np.array([0.07])), ends)


def test_label_without_operating_point_keeps_its_probability() -> None:
    probabilities = np.array([[0.2, 0.2]])
    assert normalise_operating_points(probabilities, np.array([np.nan, 0.4])).tolist() == [[0.2, 0.25]]


@pytest.mark.filterwarnings("error")
def test_sigmoid_of_extreme_logits_does_not_overflow() -> None:
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0], dtype=np.float32)).tolist() == [0.0, 0.5, 1.0]

"""Normalised values are those of MONAI's transforms, with which published models were trained."""

from __future__ import annotations

import numpy as np
import pytest
from monai.transforms.intensity.array import NormalizeIntensity, ScaleIntensityRange
from numpy.typing import NDArray

from inference.volumes.normalisation import clipped, z_scored


def hounsfield(dtype: type[np.int16] | type[np.float32]) -> NDArray[np.generic]:
    random = np.random.default_rng(1)
    return random.normal(-400, 500, (9, 180, 200)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("limits", [(-1000.0, 400.0), (0.0, 80.0), (-1350.0, 150.5)])
def test_clipped_values_are_those_of_monai(
    dtype: type[np.int16] | type[np.float32], limits: tuple[float, float]
) -> None:
    values = hounsfield(dtype)
    reference = ScaleIntensityRange(*limits, 0.0, 1.0, clip=True)(values)
    np.testing.assert_array_equal(clipped(values, *limits), np.asarray(reference))


def test_z_scores_are_those_of_monai() -> None:
    values = hounsfield(np.float32).astype(np.float32)
    reference = np.asarray(NormalizeIntensity()(values))
    np.testing.assert_allclose(z_scored(values), reference, atol=2e-6)


def test_z_scores_of_equal_values_are_zero() -> None:
    assert not z_scored(np.full((700, 900), 0.3, dtype=np.float32)).any()

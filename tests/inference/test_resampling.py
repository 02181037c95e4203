from __future__ import annotations

import warnings

import numpy as np
import pytest

from inference.images.resampling import resample, smooth_axis, triangle_axis

skimage_transform = pytest.importorskip("skimage.transform")


@pytest.mark.parametrize(
    ("rows", "columns"), [(224, 224), (225, 225), (256, 300), (447, 449), (1024, 1024), (1801, 2500)]
)
def test_smooth_axis_equals_skimage_resize(rows: int, columns: int) -> None:
    image = np.random.default_rng(rows).uniform(-1024, 1024, (rows, columns)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = skimage_transform.resize(image[None], (1, 224, 224), mode="constant", preserve_range=True)[
            0
        ]
    actual = resample(image, smooth_axis(rows, 224), smooth_axis(columns, 224))
    np.testing.assert_allclose(actual, expected, atol=2e-3)


def test_smooth_axis_refuses_to_enlarge() -> None:
    with pytest.raises(ValueError, match="only reduces"):
        smooth_axis(100, 224)


@pytest.mark.parametrize(("before", "after"), [(7, 512), (1000, 300), (5, 5), (3, 1), (2, 3)])
def test_triangle_axis_keeps_a_constant_image_constant(before: int, after: int) -> None:
    image = np.full((before, before), 3.0, dtype=np.float32)
    np.testing.assert_allclose(
        resample(image, triangle_axis(before, after), triangle_axis(before, after)), 3.0, rtol=1e-5
    )


def test_triangle_axis_keeps_the_centre_of_a_spot() -> None:
    image = np.zeros((64, 48), dtype=np.float32)
    image[16, 36] = 1.0
    enlarged = resample(image, triangle_axis(64, 640), triangle_axis(48, 480))
    row, column = np.unravel_index(enlarged.argmax(), enlarged.shape)
    assert abs(row - 164.5) <= 5
    assert abs(column - 364.5) <= 5


@pytest.mark.parametrize(("before", "after"), [(7, 1000), (64, 64), (100, 30)])
def test_matrix_does_what_its_runs_do(before: int, after: int) -> None:
    image = np.random.default_rng(1).random((before, before), dtype=np.float32)
    axis = triangle_axis(before, after)
    np.testing.assert_allclose(
        axis.matrix() @ image @ axis.matrix().T, resample(image, axis, axis), atol=1e-5
    )

"""Which cases ``overread calibrate`` sees: a series is one, however the labels name it."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from inference.engines import engine_class
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.volumes.phantoms import head_phantom, straight_geometry, write_ct_series
from node.commands.calibrate import _infer
from node.errors import CommandError


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three series of 10 slices, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("series")
    for number in range(3):
        phantom = head_phantom(number, 10, 64, lesion=number == 0)
        geometry = straight_geometry(phantom.values.shape, phantom.spacing)
        write_ct_series(folder / f"case{number}", phantom.values, geometry, body_part="HEAD")
    return folder


def uid_of(folder: Path) -> str:
    return str(pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True).SeriesInstanceUID)


def test_series_is_one_case_by_folder_uid_or_file(series: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    settings = EngineSettings(name="mets", kind="brain_metastasis", model="demo")
    engine = engine_class("brain_metastasis").load(settings, store)
    card = store.get("demo", "brain_metastasis").card
    truth = {"case0": [1.0], uid_of(series / "case1"): [0.0]}
    logits = _infer(engine, series, truth, card)
    assert logits.keys() == truth.keys()
    with pytest.raises(CommandError, match="call one case"):
        _infer(engine, series, {"case0": [1.0], uid_of(series / "case0"): [0.0]}, card)

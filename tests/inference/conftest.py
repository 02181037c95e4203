"""Radiographs made for tests, and the real ones that tests read in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import format_exception_only
from typing import Any

import numpy as np
import pytest
from pydicom import FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from inference.engines import engine_class
from inference.errors import InferenceError
from inference.importing import imports
from inference.settings import EngineSettings
from inference.store import ModelStore

WriteRadiograph = Callable[..., Path]

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real images; tests that need it are skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real images are not on this machine")
    return REAL_DATA


@pytest.fixture(scope="module", autouse=True)
def trial_here() -> Iterator[None]:
    """A model that is imported is tried in this process; tests of the commands start the real one, with its limits."""

    def refusal_of(folder: Path, kind: str) -> str | None:
        settings = EngineSettings(name="trial", kind=kind, model=str(folder), device="cpu", backend="torch")
        try:
            engine_class(kind).load(settings, ModelStore(folder.parent))
        except Exception as error:
            return (
                str(error) if isinstance(error, InferenceError) else format_exception_only(error)[-1].strip()
            )
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imports, "refusal_of", refusal_of)
        yield


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """A model store with the demonstration models alone."""
    return ModelStore(tmp_path / "models")


@pytest.fixture
def write_radiograph(tmp_path: Path) -> WriteRadiograph:
    """Write a frontal chest radiograph with given cells and attributes; an attribute of None is left out."""

    def write(cells: np.ndarray, **attributes: Any) -> Path:
        path = tmp_path / f"{generate_uid()}.dcm"
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        bits = 8 * cells.dtype.itemsize
        defaults: dict[str, Any] = {
            "SOPClassUID": ComputedRadiographyImageStorage,
            "SOPInstanceUID": generate_uid(),
            "StudyInstanceUID": generate_uid(),
            "SeriesInstanceUID": generate_uid(),
            "Modality": "CR",
            "BodyPartExamined": "CHEST",
            "ViewPosition": "PA",
            "Rows": cells.shape[0],
            "Columns": cells.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": bits,
            "BitsStored": bits,
            "HighBit": int(attributes.get("BitsStored", bits)) - 1,
            "PixelRepresentation": 1 if cells.dtype.kind == "i" else 0,
            "PixelData": cells.tobytes(),
        }
        for keyword, value in {**defaults, **attributes}.items():
            if value is not None:
                setattr(dataset, keyword, value)
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write

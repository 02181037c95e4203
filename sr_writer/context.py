"""What a report says besides the findings: which job made it, when, and which report it replaces."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from pydicom.dataset import Dataset

from sr_writer.document import InstanceReference

ResultKind = Literal["sr", "overlay", "segmentation"]

OverlayCompression = Literal["none", "jpeg"]
"""How overlays are encoded: ``none`` is uncompressed RGB, ``jpeg`` is JPEG Baseline, which loses information."""


def installed_version() -> str:
    """Version of the installed package, for Software Versions (0018,1020) of every result."""
    try:
        return version("overread")
    except PackageNotFoundError:  # run from its folders without an installation
        return "unknown"


@dataclass(frozen=True, kw_only=True)
class PredecessorReport(InstanceReference):
    """The report that a new one replaces, for Predecessor Documents Sequence (0040,A360)."""


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """One job, as its objects describe it.

    All UIDs derive from ``job_seed``, a string of study, series, engine, model version and inputs digest.
    ``series_number`` is the report's Series Number; overlays have the next one, segmentations the one after.
    ``content_datetime`` is when the results were made, in UTC. It is written in the offset that the source declares,
    else in ``timezone`` (None: the time zone of the node). ``manufacturer``, ``model_name`` and ``software_version``
    describe the node, not the model. ``overlay_compression`` is how the pixels of overlays are encoded.

    Raises:
        ValueError: ``content_datetime`` is not in UTC, or ``series_number`` is below 1.
    """

    job_seed: str
    engine_name: str
    content_datetime: datetime
    series_number: int = 9001
    predecessor: PredecessorReport | None = None
    manufacturer: str = "overread"
    model_name: str = "overread"
    software_version: str = field(default_factory=installed_version)
    device_serial_number: str | None = None
    timezone: tzinfo | None = None
    overlay_compression: OverlayCompression = "none"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.content_datetime.utcoffset() != UTC.utcoffset(None):
            raise ValueError("content_datetime must be aware and in UTC")
        if self.series_number < 1:
            raise ValueError(f"series_number must be at least 1, not {self.series_number}")


@dataclass(frozen=True, kw_only=True)
class WrittenObject:
    """A finished object; ``dataset`` has its ``file_meta`` and is ready for ``dcmwrite``."""

    kind: ResultKind
    dataset: Dataset

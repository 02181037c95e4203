"""Mutated files: every reader refuses them in its own words or reads them, and never crashes or hangs.

FUZZ_SECONDS says how long each test goes on; ``make fuzz`` runs them for longer.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.errors import ScanError
from handlers.spool.scan import scan
from inference.demo.volume_phantoms import head_phantom, straight_geometry, write_ct_series
from inference.errors import ImageUnreadable
from inference.images.grey import grey_image
from inference.parsing.pixels import parsed_image
from inference.volumes.volume import read_series

SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HEADER_BYTES = 4096


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Small files of several kinds, the real ones among them where they are there."""
    folder = tmp_path_factory.mktemp("originals")
    phantom = head_phantom(1, slices=4, size=32)
    geometry = straight_geometry(phantom.values.shape, phantom.spacing)
    files = write_ct_series(folder, phantom.values, geometry, body_part="HEAD")
    if REAL_DATA.is_dir():
        files += sorted((REAL_DATA / "transfer_syntaxes").glob("*.dcm"))
        files += sorted((REAL_DATA / "mr_brain_siemens").glob("*ap*.dcm"))
    return [path.read_bytes() for path in files]


def mutants(originals: list[bytes], seed: int) -> Iterator[bytes]:
    """Files with bytes changed, cut out, doubled or cut off, for SECONDS."""
    chance = random.Random(seed)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        data = bytearray(chance.choice(originals))
        for _ in range(chance.choice((1, 1, 2, 8))):
            if len(data) < 200:
                break
            reach = HEADER_BYTES if chance.random() < 0.8 else len(data)
            place = chance.randrange(132, max(133, min(reach, len(data))))
            kind = chance.randrange(5)
            if kind == 0:
                data[place] = chance.randrange(256)
            elif kind == 1:
                data[place : place + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\xfe\xff\x00\xe0"))
            elif kind == 2:
                del data[place : place + chance.randrange(1, 64)]
            elif kind == 3:
                data[place:place] = data[place : place + chance.randrange(1, 64)]
            else:
                del data[place:]
        yield bytes(data)


def test_pixels_of_mutated_files(originals: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "mutant.dcm"
    for data in mutants(originals, 1):
        path.write_bytes(data)
        try:
            grey_image(parsed_image(path))
        except ImageUnreadable as error:
            assert str(error)


def test_series_of_mutated_files(originals: list[bytes], tmp_path: Path) -> None:
    whole = tmp_path / "whole.dcm"
    whole.write_bytes(originals[0])
    path = tmp_path / "mutant.dcm"
    for data in mutants(originals, 2):
        path.write_bytes(data)
        series = read_series([whole, path], fewest_slices=1)
        assert series.volumes or series.refused


def test_datasets_that_the_receiver_looks_at(originals: list[bytes]) -> None:
    for data in mutants(originals, 3):
        syntax = "1.2.840.10008.1.2.1" if len(data) % 3 else "1.2.840.10008.1.2"
        try:
            scan(memoryview(data)[332:], syntax, frozenset({"BodyPartExamined"}))
        except ScanError as error:
            assert str(error)

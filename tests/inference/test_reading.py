"""Reading by way of the reader process: the same images as without it, and faults that cost only that process."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from inference.errors import ImageUnreadable
from inference.images.grey import grey_image
from inference.parsing import pixels
from inference.parsing.parsed import parsed_frames
from inference.reading import files as reading
from inference.reading.documents import read_frame_document, read_image_document, read_pixel_document
from inference.reading.fields import Fields
from inference.reading.limits import ReaderLimits
from inference.reading.pool import close_readers, limit_readers, readers
from inference.reading.stored import StoredImage
from inference.reading.wire import MAXIMUM_PIXEL_BYTES, MalformedMessage
from tests.peers.decoders import misbehaving_decoders
from tests.peers.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
Write = Callable[..., Path]
NO_ARRAYS: dict[str, Any] = {"values": 0, "display": 0}
LIMITS = ReaderLimits(memory_bytes=1_500_000_000, seconds=60.0, processes=1)


def ramp(dtype: str = "u2") -> np.ndarray:
    return (np.arange(32 * 48).reshape(32, 48) % 4096).astype(dtype)


@pytest.fixture(autouse=True)
def own_readers() -> Iterator[None]:
    """Readers of this test alone."""
    limit_readers(LIMITS)
    yield
    limit_readers(ReaderLimits())
    close_readers()


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders of the reader process that misbehave where the Study ID says so."""
    monkeypatch.setenv("PYTHONPATH", str(misbehaving_decoders(tmp_path / "hook")))


def compressed(path: Path, word: str = "") -> Path:
    """The image run-length coded, with a Study ID."""
    dataset = pydicom.dcmread(path)
    dataset.StudyID = word
    dataset.compress(RLELossless)
    target = path.with_name(f"{word or 'good'}-{path.name}")
    dataset.save_as(target)
    return target


def same(ours: StoredImage, reference: StoredImage) -> None:
    assert ours.values.dtype == reference.values.dtype
    np.testing.assert_array_equal(ours.values, reference.values)
    assert replace(ours, **NO_ARRAYS) == replace(reference, **NO_ARRAYS)
    one, other = grey_image(ours), grey_image(reference)
    np.testing.assert_array_equal(one.values, other.values)
    shown, reference_shown = (image.windowed(image.values) for image in (one, other))
    assert (shown is None) == (reference_shown is None)
    if shown is not None and reference_shown is not None:
        np.testing.assert_array_equal(shown, reference_shown)


def test_every_real_file_is_read_as_in_this_process(real_data: Path) -> None:
    limit_readers(replace(LIMITS, seconds=60.0))
    files = sorted(real_data.rglob("*.dcm"))
    assert files
    images = 0
    for path in files:
        keywords = ["Modality", "ImageType", "PatientName"]
        try:
            reference = pixels.parsed_image(path, keywords)
        except ImageUnreadable as error:
            with pytest.raises(ImageUnreadable) as caught:
                reading.read_image(path, keywords)
            assert str(caught.value) == str(error)
        else:
            same(reading.read_image(path, keywords), reference)
            images += 1
        try:
            frames = parsed_frames(path)
        except ImageUnreadable as error:
            with pytest.raises(ImageUnreadable) as caught:
                reading.read_frames(path)
            assert str(caught.value) == str(error)
        else:
            assert reading.read_frames(path) == frames
    assert images >= len(files) - 8


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
    ],
)
@pytest.mark.parametrize("cells", [ramp("u1"), ramp("u2"), ramp("i2") - 700], ids=["u1", "u2", "i2"])
def test_every_coding_is_read_as_in_this_process(
    write_radiograph: Write, tmp_path: Path, syntax: pydicom.uid.UID, cells: np.ndarray
) -> None:
    dataset = pydicom.dcmread(
        write_radiograph(
            cells, WindowCenter="400", WindowWidth="900", RescaleSlope="-2", RescaleIntercept="7"
        )
    )
    if syntax.is_encapsulated:
        dataset.compress(syntax)
    path = tmp_path / "coded.dcm"
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = cells.astype(cells.dtype.newbyteorder(">")).tobytes()
    pydicom.dcmwrite(path, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    ours = reading.read_image(path)
    same(ours, pixels.parsed_image(path))
    np.testing.assert_array_equal(ours.values, cells)


def test_lookup_tables_and_padding_come_along(write_radiograph: Write) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 12], (np.arange(4096)[::-1] // 2).astype("<u2").tobytes()
    table["LUTData"].VR = "OW"
    for sequence in ("ModalityLUTSequence", "VOILUTSequence"):
        path = write_radiograph(
            ramp(), BitsStored=12, PixelPaddingValue=0, PixelPaddingRangeLimit=5, **{sequence: [table]}
        )
        same(reading.read_image(path), pixels.parsed_image(path))


def test_frames_of_one_file(write_radiograph: Write) -> None:
    stack = np.stack([ramp() + n for n in range(3)])
    dataset = pydicom.dcmread(write_radiograph(stack[0], NumberOfFrames=3, PixelData=stack.tobytes()))
    dataset.compress(RLELossless)
    path = Path(str(dataset.filename))
    dataset.save_as(path)
    with reading.FrameReader(path) as reader:
        for index in (2, 0, 1):
            np.testing.assert_array_equal(reader.values(index), stack[index])
        with pytest.raises(ImageUnreadable):
            reader.values(7)


def test_pictures_and_headers(write_radiograph: Write, tmp_path: Path) -> None:
    cells = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(cells).save(tmp_path / "sixteen.png")
    Image.fromarray((cells >> 8).astype(np.uint8)).save(tmp_path / "eight.png")
    np.testing.assert_array_equal(reading.read_picture(tmp_path / "sixteen.png"), cells)
    np.testing.assert_array_equal(reading.read_picture(tmp_path / "eight.png"), cells >> 8)
    whole = (tmp_path / "eight.png").read_bytes()
    (tmp_path / "short.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageUnreadable, match="the picture is damaged"):
        reading.read_picture(tmp_path / "short.png")
    header = reading.read_header(
        write_radiograph(ramp(), ImageType=["ORIGINAL", "PRIMARY"]), ["ImageType", "Rows"]
    )
    assert header.values("ImageType") == ("ORIGINAL", "PRIMARY")
    assert header.number("Rows") == 32


def test_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        reading.read_image(tmp_path / "absent.dcm")
    with pytest.raises(IsADirectoryError):
        reading.read_image(tmp_path)


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("crash", r"the decoder crashed on this file \(SIGABRT\)"),
        ("exit", r"the decoder crashed on this file \(status 3\)"),
        ("memory", "the decoder needed more memory than 1.5 GB"),
        ("hang", "the decoder took longer than 3 seconds"),
        ("garbage", "the decoder gave an answer that makes no sense"),
        ("lie", "the decoder gave an answer that makes no sense"),
    ],
)
def test_fault_of_a_decoder_refuses_its_file_and_no_other(
    write_radiograph: Write, word: str, reason: str
) -> None:
    path = write_radiograph(ramp())
    good, bad = compressed(path), compressed(path, word)
    reading.read_image(good)
    if word == "hang":
        limit_readers(replace(LIMITS, seconds=3.0))
        reading.read_image(good)
    (before,) = readers().pids
    with pytest.raises(ImageUnreadable, match=f"^{reason}$"):
        reading.read_image(bad)
    assert not Path(f"/proc/{before}").exists(), "the process is gone, and no zombie of it is left"
    np.testing.assert_array_equal(reading.read_image(good).values, ramp())
    (after,) = readers().pids
    assert after != before


@pytest.mark.usefixtures("faulty")
def test_nothing_is_left_of_readers_that_break(write_radiograph: Write) -> None:
    path = write_radiograph(ramp())
    good, bad = compressed(path), compressed(path, "crash")
    reading.read_image(good)
    close_readers()
    limit_readers(LIMITS)
    gc.collect()  # what other tests left in cycles is closed at some time
    baseline = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ImageUnreadable):
            reading.read_image(bad)
        reading.read_image(good)
    close_readers()
    assert set(os.listdir("/proc/self/fd")) <= baseline
    assert children() == []


def children() -> list[str]:
    """Command lines of readers that this process has, zombies among them."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            command = Path(f"/proc/{pid}/cmdline").read_text()
            if "inference.parsing.child" in command or not command:
                found.append(command)
    return found


def test_reader_that_ended_while_idle_is_no_files_fault(write_radiograph: Write) -> None:
    path = write_radiograph(ramp())
    reading.read_image(path)
    (pid,) = readers().pids
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z", 5, "it has ended")
    np.testing.assert_array_equal(reading.read_image(path).values, ramp())


def test_reader_is_confined_and_small(write_radiograph: Write) -> None:
    reading.read_image(write_radiograph(ramp()))
    (pid,) = readers().pids
    user, system = (
        int(ticks) for ticks in Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[11:13]
    )
    assert (user + system) / os.sysconf("SC_CLK_TCK") < 3
    assert resource.prlimit(pid, resource.RLIMIT_AS) == (LIMITS.memory_bytes, LIMITS.memory_bytes)
    assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
    assert resource.prlimit(pid, resource.RLIMIT_FSIZE)[0] == MAXIMUM_PIXEL_BYTES
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["NoNewPrivs"].strip() == "1"
    assert int(status["VmHWM"].split()[0]) < 200_000
    assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    os.kill(pid, signal.SIGTERM)  # a stop of the whole group: the worker decides when its reader ends
    reading.read_image(write_radiograph(ramp()))
    assert readers().pids == [pid]


def test_largest_image_fits_the_memory_that_is_usual(write_radiograph: Write) -> None:
    """A mammogram of 100 million pixels, run-length coded, within the default limits."""
    limit_readers(ReaderLimits())
    cells = np.zeros((10_000, 10_000), dtype=np.uint16)
    cells[::100] = 4095
    assert reading.read_image(compressed(write_radiograph(cells))).values.sum() == cells.sum(dtype=np.uint64)


def test_threads_share_the_readers(write_radiograph: Write) -> None:
    limit_readers(replace(LIMITS, processes=2))
    files = [compressed(write_radiograph(ramp() + n), f"n{n}") for n in range(8)]
    with ThreadPoolExecutor(6) as threads:
        for number, image in enumerate(threads.map(reading.read_image, files * 3)):
            np.testing.assert_array_equal(image.values, ramp() + number % 8)
    # Readers do not end with the threads for which they were started.
    assert 1 <= len(readers().pids) <= 2
    assert all(Path(f"/proc/{pid}").exists() for pid in readers().pids)


WORKER = """
import sys, threading
from pathlib import Path
from typing import Any
from inference.reading import files as reading
from inference.reading.limits import ReaderLimits
from inference.reading.pool import limit_readers, readers
limit_readers(ReaderLimits(processes=2))
reading.read_image(Path(sys.argv[1]))
with readers().lease() as reader:
    print(reader.process.pid, *readers().pids, flush=True)
    thread = threading.Thread(target=reading.read_image, args=(Path(sys.argv[2]),), daemon=True)
    thread.start()
    print(sys.stdin.readline())
"""


@pytest.mark.usefixtures("faulty")
def test_readers_die_with_their_worker_even_when_it_is_killed(write_radiograph: Write) -> None:
    path = write_radiograph(ramp())
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, compressed(path), compressed(path, "hang")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert worker.stdout is not None and worker.stdin is not None
    worker.stdout.readline()

    def descendants() -> list[str]:
        tasks = Path(f"/proc/{worker.pid}/task").iterdir()
        return [pid for task in tasks for pid in (task / "children").read_text().split()]

    pids = wait_until(
        lambda: p if len(p := descendants()) == 2 else None, 10, "two readers, one of them hanging"
    )
    worker.kill()
    worker.wait()
    worker.stdin.close()
    worker.stdout.close()
    for pid in pids:
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10, "the reader has ended")  # noqa: B023


def test_reader_that_cannot_start_is_an_error_of_the_system(write_radiograph: Write) -> None:
    limit_readers(replace(LIMITS, memory_bytes=60_000_000))
    with pytest.raises(OSError, match="does not start"):
        reading.read_image(write_radiograph(ramp()))


IMAGE = {
    "type": "<u2",
    "rows": 2,
    "columns": 3,
    "lowest": 0,
    "highest": 4095,
    "header": {"sop_class_uid": "1.2", "sop_instance_uid": "1.3", "attributes": {}},
    "display": {
        "inverted": False,
        "modality": {"kind": "rescale", "slope": 1.0, "intercept": 0.0},
        "padding": None,
        "voi": None,
    },
}
FRAME = {
    "study": "1",
    "series": "2",
    "sop_class": "3",
    "instance": "4",
    "stored_rows": 8,
    "stored_columns": 8,
    "frame": None,
    "position": [0.0, 0.0, 0.0],
    "row_direction": [1.0, 0.0, 0.0],
    "column_direction": [0.0, 1.0, 0.0],
    "spacing": [1.0, 1.0],
    "rows": 4,
    "columns": 4,
    "slope": 1.0,
    "intercept": 0.0,
    "origin": [4, 4],
    "instance_number": 1,
    "patient_id": "P",
    "frame_of_reference": "5",
    "traits": [["Modality", "CT"]],
}


@pytest.mark.parametrize(
    "change",
    [
        {"type": "<f4"},
        {"type": "|O8"},
        {"rows": 0},
        {"rows": -2, "columns": -3},
        {"rows": 2.0},
        {"rows": True},
        {"rows": 10**9, "columns": 10**9},
        {"columns": 4},
    ],
)
def test_pixels_that_are_not_those_announced_make_no_sense(change: dict[str, object]) -> None:
    assert read_pixel_document(Fields(IMAGE), 12) == ("<u2", 2, 3)
    with pytest.raises(MalformedMessage):
        read_pixel_document(Fields(IMAGE | change), 12)


@pytest.mark.parametrize(
    "change",
    [
        {"lowest": 5},
        {"highest": 0},
        {"header": None},
        {"header": {"sop_class_uid": "1.2", "sop_instance_uid": "1" * 65, "attributes": {}}},
        {"header": {"sop_class_uid": "1.2", "sop_instance_uid": "1", "attributes": {"Rows": 3}}},
        {"display": {"modality": {"kind": "rescale", "slope": 0.0, "intercept": 0.0}}},
        {"display": {"modality": {"kind": "rescale", "slope": float("nan"), "intercept": 0.0}}},
        {"display": {"modality": {"kind": "rescale", "slope": 1e29, "intercept": 0.0}}},
        {"display": {"modality": {"kind": "table", "first": 0, "highest": 9, "entries": [10]}}},
        {"display": {"modality": {"kind": "table", "first": 0, "highest": 9, "entries": []}}},
        {"display": {"modality": {"kind": "window", "centre": 0, "width": 1, "function": "LINEAR"}}},
    ],
)
def test_images_outside_of_their_ranges_make_no_sense(change: dict[str, object]) -> None:
    values = np.zeros((2, 3), np.uint16)
    assert read_image_document(Fields(IMAGE), Path("x"), values).highest == 4095
    with pytest.raises(MalformedMessage):
        read_image_document(Fields(IMAGE | change), Path("x"), values)


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": [0.0, 1.0]},
        {"spacing": [float("nan"), 1.0]},
        {"position": [0.0, float("inf"), 0.0]},
        {"row_direction": [2.0, 0.0, 0.0]},
        {"row_direction": [0.0, 1.0, 0.0]},
        {"slope": 0},
        {"origin": [5, 4]},
        {"origin": [-1, 0]},
        {"rows": 9},
        {"traits": [["Modality"]]},
        {"frame": 0},
        {"instance": "../4"},
    ],
)
def test_slices_outside_of_their_ranges_make_no_sense(change: dict[str, object]) -> None:
    frame = read_frame_document(Fields(FRAME), Path("x"))
    assert frame.pixels is None
    with pytest.raises(MalformedMessage):
        read_frame_document(Fields(FRAME | change), Path("x"))


def test_codestream_in_pieces_is_one_frame(write_radiograph: Write, tmp_path: Path) -> None:
    """A frame in several fragments crosses the process as one image."""
    dataset = pydicom.dcmread(compressed(write_radiograph(ramp("u1"))))
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=1, has_bot=False)
    path = tmp_path / "pieces.dcm"
    dataset.save_as(path)
    np.testing.assert_array_equal(reading.read_image(path).values, ramp("u1"))

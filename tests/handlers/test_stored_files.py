"""Stored paths: they stay in the data folder, and what is written, opened and removed is what they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.spool.stored_files import PathOutside, StoredFiles


@pytest.mark.parametrize(
    "path", ["", ".", "/etc/passwd", "../secret", "spool/../../secret", "..", "spool/\0x", "//host/x"]
)
def test_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    files = StoredFiles(tmp_path / "data")
    (tmp_path / "secret").write_text("x")
    for act in (files.local, files.open, files.size, files.remove, lambda p: files.put(p, b"x")):
        with pytest.raises(PathOutside) as caught:
            act(path)
        assert caught.value.strerror == "its path leads out of the data folder"
    assert [entry.name for entry in tmp_path.rglob("*")] == ["secret"]


def test_file_that_was_put_is_opened_and_removed_with_its_folder(tmp_path: Path) -> None:
    files = StoredFiles(tmp_path)
    paths = [f"results/07/7/{name}.dcm" for name in ("a", "b")]
    for path in paths:
        files.put(path, b"former")
        files.put(path, path.encode())
    with files.open(paths[0]) as file:
        assert file.read() == paths[0].encode()
    assert files.size(paths[1]) == len(paths[1])
    assert files.local(paths[0]) == tmp_path / paths[0]
    files.remove(paths[0])
    files.remove(paths[0])
    assert (tmp_path / "results/07/7").is_dir()
    files.remove(paths[1])
    assert (tmp_path / "results/07").is_dir()
    assert not (tmp_path / "results/07/7").exists()
    files.put(paths[0], b"again")
    assert files.size(paths[0]) == 5
    with pytest.raises(FileNotFoundError):
        files.open(paths[1])


def test_folders_of_the_spool_stay(tmp_path: Path) -> None:
    files = StoredFiles(tmp_path)
    files.put("spool/3f/a.dcm", b"x")
    files.remove("spool/3f/a.dcm")
    assert (tmp_path / "spool/3f").is_dir()


def test_folder_on_another_disk_is_inside(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "results").symlink_to(tmp_path / "large")
    StoredFiles(tmp_path / "data").put("results/00/1/a.dcm", b"x")
    assert (tmp_path / "large/00/1/a.dcm").read_bytes() == b"x"


def test_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    files = StoredFiles(tmp_path)
    files.put("results/00/1/a.dcm", b"former")
    with monkeypatch.context() as patch:
        patch.setattr("handlers.spool.stored_files.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            files.put("results/00/1/a.dcm", b"new")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["a.dcm"]
    assert (tmp_path / "results/00/1/a.dcm").read_bytes() == b"former"


def test_what_writers_left_unfinished_is_cleared_up(tmp_path: Path) -> None:
    files = StoredFiles(tmp_path)
    files.put("results/00/1/a.dcm", b"x")
    (tmp_path / "results/00/1/.abc.part").write_bytes(b"half")
    files.clear_up("results")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["a.dcm"]

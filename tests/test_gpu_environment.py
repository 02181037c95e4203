"""What is installed beside a PyTorch that is there."""

from __future__ import annotations

from tests.gpu_environment import constraints_beside


def test_what_is_there_stays_and_what_lacks_comes_as_pinned() -> None:
    present = {"torch": "2.11.0+cu130", "numpy": "2.5.2", "typing-extensions": "4.1"}
    pinned = [
        "# a comment",
        "torch==2.9.0",
        "torchvision==0.24.0",
        "numpy==2.4.0",
        "typing_extensions==4.15.0",
        "pydicom==3.0.1",
    ]
    assert constraints_beside(present, pinned) == ["pydicom==3.0.1", "torch==2.11.0+cu130"]

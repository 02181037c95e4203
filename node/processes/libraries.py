"""The roles of a node, each a process, and the libraries that some of them do without.

pydicom imports NumPy and every decoder that it finds, whether pixels are read or not. A process that reads no pixels
hides them: it needs a third less time to start and 40 MB less, and has no decoder that a peer's bytes could reach. To
pydicom a hidden library is one that is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PIXEL_LIBRARIES = ("gdcm", "jpeg_ls", "numpy", "PIL", "pylibjpeg", "requests")
"""The last one is for pydicom's example files."""


class Role(StrEnum):
    """What a process of the node does."""

    RECEIVER = "receiver"
    WORKER = "worker"
    COURIER = "courier"
    TICKER = "ticker"
    WEB = "web"

    @property
    def reads_pixels(self) -> bool:
        """Whether it imports engines: the ticker asks them which images they take."""
        return self in (Role.WORKER, Role.TICKER)


class _Hidden(MetaPathFinder):
    """Says of the pixel libraries that they are not installed.

    Asked before all other finders. Python's own sign, None in ``sys.modules``, misleads psycopg, which looks there.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in PIXEL_LIBRARIES:
            raise ModuleNotFoundError(
                f"{fullname} is hidden from a process that reads no pixels", name=fullname
            )
        return None


def hide_pixel_libraries() -> None:
    """Keep this process from importing what reads pixels; before anything imports pydicom."""
    sys.meta_path.insert(0, _Hidden())

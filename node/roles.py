"""The roles of a node, each a process, and the libraries that some of them do without.

pydicom imports NumPy and every decoder that it finds, whether pixels are read or not. A process that reads no pixels
hides them: it is ready in half the time, takes 40 MB less, and has no decoder that a peer's bytes could reach. To
pydicom a hidden library is one that is not installed.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import cast

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


def hide_pixel_libraries() -> None:
    """Keep this process from importing what reads pixels; before anything imports pydicom."""
    modules = cast(dict[str, object], sys.modules)
    for name in PIXEL_LIBRARIES:
        modules.setdefault(name, None)  # Python's own sign for a module that must not be imported

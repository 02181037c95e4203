"""The attributes by which plug-in engines select images, so that receivers index them.

Receivers load no engines, and the supervisor runs no foreign code. So each plug-in is asked in a process of its own.
Receivers always index the attributes that built-in engines need.

Usage: python -m node.processes.engine_keywords KIND
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence

from inference.engines import engine_class, registered_kinds

log = logging.getLogger("overread.engine_keywords")

TIMEOUT_SECONDS = 60.0
"""The time an engine has to load and answer; after that it counts as failed."""


def engine_keywords(kinds: Sequence[str]) -> frozenset[str]:
    """The ``header_keywords`` of those kinds that are plug-ins. A plug-in that fails is logged and left out."""
    plug_ins = sorted({*kinds}.intersection(registered_kinds()))
    keywords: set[str] = set()
    for kind in plug_ins:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "node.processes.engine_keywords", kind],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=True,
            )
            keywords.update(map(str, json.loads(done.stdout.splitlines()[-1])))
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            # The plug-in's own output may say anything, so only the kind of error is logged.
            log.error("engine_not_asked kind=%s error=%s", kind, type(error).__name__)
    return frozenset(keywords)


def main() -> None:
    """Print the keywords of one engine kind as JSON on the last line."""
    sys.stdout.write("\n" + json.dumps(sorted(engine_class(sys.argv[1]).header_keywords)) + "\n")


if __name__ == "__main__":
    main()

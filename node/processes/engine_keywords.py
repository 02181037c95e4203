"""The attributes that engines of other distributions select by, so that receivers index them like the usual ones.

Receivers load no engines, and the supervisor runs no foreign code: a process that ends at once asks the engines.
What built-in engines select by, receivers index anyway.

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

SECONDS = 60.0
"""An engine that takes longer to load is not asked."""


def engine_keywords(kinds: Sequence[str]) -> frozenset[str]:
    """The ``header_keywords`` of those engine kinds that are not built in; without those of engines that fail."""
    foreign = sorted({*kinds}.intersection(registered_kinds()))
    keywords: set[str] = set()
    for kind in foreign:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "node.processes.engine_keywords", kind],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=True,
            )
            keywords.update(map(str, json.loads(done.stdout.splitlines()[-1])))
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            # Its last words may be anything, so the log has what kind of error it was alone.
            log.error("engine_not_asked kind=%s error=%s", kind, type(error).__name__)
    return frozenset(keywords)


def main() -> None:
    """Print the keywords of one engine kind as JSON, on the last line."""
    sys.stdout.write("\n" + json.dumps(sorted(engine_class(sys.argv[1]).header_keywords)) + "\n")


if __name__ == "__main__":
    main()

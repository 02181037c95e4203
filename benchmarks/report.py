"""benchmarks/RESULTS.md: each benchmark replaces the section of its name, with the machine that it ran on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = "# Results of the benchmarks\n\nWritten by `make bench`; each section replaces its former self.\n"


def machine() -> str:
    """The machine in a line: processor, cores, memory, Python."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return (
        f"{model}, {cores} cores, {memory:.0f} GiB memory, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write_section(title: str, body: str) -> None:
    """Print a section and put it into RESULTS.md in place of the former one of that title."""
    stamp = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}"
    section = f"## {title}\n\n{stamp}\n\n{body.strip()}\n"
    print(section)
    text = RESULTS.read_text() if RESULTS.exists() else HEADING
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    replaced = pattern.sub(lambda _: section + "\n", text)
    if not pattern.search(text):
        replaced = text.rstrip("\n") + "\n\n" + section
    RESULTS.write_text(replaced.rstrip("\n") + "\n")

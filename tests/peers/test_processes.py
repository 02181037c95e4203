"""What is read of processes: those that one has started, by name, and what they and the ended ones have cost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.processes import (
    TICKS,
    descendants,
    name_of,
    processor_seconds,
    proportional_memory,
    stages_of,
)

STARTER = """
import os, subprocess, sys, threading, time
from inference.reading.limits import ReaderLimits
from node.line.stage_child import StageSettings
from node.line.stage_process import StageProcess, Template
spent = [sys.executable, "-c", "import time\\nwhile time.process_time() < 0.5: pass"]
waits = "import sys; sys.stdin.read()"
named = f"import ctypes; ctypes.CDLL(None).prctl(15, b'writer', 0, 0, 0); print(flush=True); {waits}"

def start():
    subprocess.run(spent, check=True)
    own_name = subprocess.Popen([sys.executable, "-c", named], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    own_name.stdout.readline()
    by_program = subprocess.Popen(["sleep", "60"])
    template = Template(StageSettings(modules=(), begin=os.getpid, reader_limits=ReaderLimits()))
    stage = StageProcess(template)
    print(own_name.pid, by_program.pid, stage.pid, flush=True)
    sys.stdin.read()
    by_program.kill()
    template.end()

thread = threading.Thread(target=start)
thread.start()
thread.join()
"""
"""A thread that is not the first starts processes: one ends, one names itself, one is a program, one is forked."""


@pytest.fixture
def starter() -> Iterator[tuple[int, ...]]:
    """The numbers of a process and of three that it has started."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        started = map(int, process.stdout.readline().split())
        yield process.pid, *started
        process.stdin.close()


def test_processes_of_every_thread_are_found_by_name(starter: tuple[int, ...]) -> None:
    pid, named, sleeping, stage = starter
    found = descendants(pid)
    assert (found.pop(named), found.pop(sleeping), found.pop(stage)) == ("writer", "sleep", "stage")
    assert sorted(found.values()) == ["node.line.template"]
    assert stages_of(pid) == [stage]


def test_time_of_ended_processes_counts_for_the_one_that_started_them(starter: tuple[int, ...]) -> None:
    own, ended = processor_seconds(starter[0])
    assert own < ended
    assert ended >= 0.5 - 2 / TICKS, "user and system time are cut to whole ticks"


def test_memory_is_that_of_the_process(starter: tuple[int, ...]) -> None:
    status = Path(f"/proc/{starter[0]}/status").read_text()
    resident = 1024 * int(status.split("VmRSS:")[1].split()[0])
    assert 0 < proportional_memory(starter[0]) <= resident


def test_process_that_is_not_there_is_none() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    assert (name_of(ended.pid), descendants(ended.pid), processor_seconds(ended.pid)) == ("", {}, (0.0, 0.0))
    assert proportional_memory(ended.pid) == 0

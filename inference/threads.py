"""The threads of the numerical libraries: how many there are, and that a thread which waits lets go of its core.

By default each library starts a thread for each core, and where its threads wait for one another they spin for
milliseconds. If the machine has something else to do, as it always has in a node, a spinning thread keeps the core from
the very thread that it waits for. So the pools are sized here, for every process of this program, and told to sleep.

Libraries read these environment variables once, when they are loaded. So a program calls :func:`calm_threads` before
it imports any, and whoever starts a process that shall have other numbers passes it :func:`thread_environment`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
CGROUP_OF_PROCESS = Path("/proc/self/cgroup")


def thread_environment(threads: int) -> dict[str, str]:
    """The environment in which the libraries of a process compute with ``threads`` threads that do not spin.

    OMP_NUM_THREADS is for PyTorch, with oneDNN and MKL inside it, and OMP_WAIT_POLICY for whichever OpenMP library it
    has: GNU's then takes 0 for GOMP_SPINCOUNT, LLVM's and Intel's take 0 for KMP_BLOCKTIME. The OpenBLAS of NumPy and
    of SciPy spins by ``sched_yield`` whatever it is told, and there is nothing large to multiply with it.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_NUM_THREADS": "1",
    }


def calm_threads() -> None:
    """Set the environment of this process, and of those that it starts, to one thread for each usable core.

    What the environment already says stays, so that an administrator has the last word.
    """
    for name, value in thread_environment(usable_cores()).items():
        os.environ.setdefault(name, value)


def usable_cores() -> int:
    """How many cores this process may use: by its affinity, and by the quota of its control group, rounded up.

    A quota is what ``docker run --cpus``, a limit of Kubernetes and ``CPUQuota=`` of systemd set. It bounds the time
    of all threads together, so more threads than it has cores only get stopped more often.
    """
    return math.ceil(min(len(os.sched_getaffinity(0)), _quota()))


def _quota() -> float:
    """Cores that the control group and those above it allow (cpu.max of version 2); infinite if none limits them."""
    smallest = math.inf
    if not CGROUP_OF_PROCESS.exists():
        return smallest
    for line in CGROUP_OF_PROCESS.read_text().splitlines():
        hierarchy, _, path = line.split(":", 2)
        if hierarchy != "0":
            continue  # version 1 has the quota elsewhere
        group = CGROUPS / path.lstrip("/")
        for folder in (group, *group.parents):
            limit = folder / "cpu.max"
            if folder.is_relative_to(CGROUPS) and limit.exists():
                quota, period = limit.read_text().split()
                if quota != "max":
                    smallest = min(smallest, int(quota) / int(period))
    return smallest

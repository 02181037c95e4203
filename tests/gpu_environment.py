"""A virtual environment beside a PyTorch that is there already: what lacks is installed, and nothing is replaced.

Usage: PYTHON tests/gpu_environment.py FOLDER, with the Python that has PyTorch. Needs only the standard library.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OF_TESTS = ("dynamic-network-architectures", "hypothesis", "pytest", "pytest-timeout")
"""What the tests and benchmarks of a device need besides the product's dependencies."""
KEPT = ("torch", "torchvision")
"""Never replaced, even where another version is asked for: they are built for the device's driver."""


def main(folder: Path) -> None:
    """Make the environment, or look again at what it lacks."""
    if find_spec("torch") is None:
        sys.exit(f"{sys.executable} has no PyTorch. Name a Python that has: make gpu PYTHON=...")
    place = make_environment(folder)
    present = {name_of(d.name): d.version for d in distributions(path=[*sys.path, str(place)])}
    wanted = [*tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"], *OF_TESTS]
    lacking = [requirement for requirement in wanted if name_of(requirement) not in present]
    if not lacking:
        return
    constraints = folder / "constraints.txt"
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    constraints.write_text("\n".join(constraints_beside(present, pinned)) + "\n")
    print(f"Installing {', '.join(lacking)} ...", flush=True)
    python = str(folder / "bin" / "python")
    # By the pip that is there: a new one cannot be had everywhere.
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--retries", "1"]
    if subprocess.run([*command, "-c", str(constraints), *lacking]).returncode:
        print("They could not be installed: tests and benchmarks that need them will say so.", flush=True)


def make_environment(folder: Path) -> Path:
    """An environment that sees the packages of this Python after its own; the folder of its own."""
    venv.EnvBuilder().create(folder)
    (place,) = folder.glob("lib/python*/site-packages")
    # Not by system_site_packages: where this Python is in a virtual environment, those are not its packages.
    seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (place / "beside.pth").write_text("\n".join([*seen, str(ROOT)]) + "\n")
    return place


def constraints_beside(present: dict[str, str], pinned: Iterable[str]) -> list[str]:
    """The pins of what is not there, since it was tested so, and the versions that are there of what is kept.

    Args:
        present: version by name of what is installed.
        pinned: lines of constraints.txt.
    """
    pins = [line for line in pinned if "==" in line and name_of(line) not in (*present, *KEPT)]
    return [*pins, *(f"{name}=={present[name]}" for name in KEPT if name in present)]


def name_of(requirement: str) -> str:
    """The name of what a requirement asks for, as indexes compare names (PEP 503)."""
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

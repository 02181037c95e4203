"""Downloading a file over HTTPS, with progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx

from inference.errors import InferenceError

Progress = Callable[[int, int | None], None]
"""Called with the bytes received so far and their total, None if the server does not say."""

TIMEOUT_SECONDS = 60.0


def download(address: str, target: Path, advice: str, progress: Progress | None = None) -> Path:
    """Download a file.

    Args:
        address: from where.
        target: to where.
        advice: for the error message: the command that takes in a file which was fetched in another way.
        progress: called after each part.

    Raises:
        InferenceError: the server cannot be reached or refuses; ``target`` is then removed.
    """
    try:
        with httpx.stream("GET", address, follow_redirects=True, timeout=TIMEOUT_SECONDS) as response:
            response.raise_for_status()
            total = int(response.headers.get("content-length", 0)) or None
            done = 0
            with target.open("wb") as file:
                for chunk in response.iter_bytes(1 << 20):
                    file.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, total)
    except httpx.HTTPError as error:
        target.unlink(missing_ok=True)
        raise InferenceError(
            f"{address} could not be fetched ({type(error).__name__}): fetch the file where there is a network "
            f"and take it in with {advice}."
        ) from error
    return target

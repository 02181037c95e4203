"""A client for the web interfaces of peers on this machine."""

from __future__ import annotations

import httpx


def web_client(port: int, timeout: float) -> httpx.Client:
    """To be kept: making one reads all certificates of the machine, which takes longer than most answers.

    No connection is kept, since peers are stopped and started.
    """
    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}",
        timeout=timeout,
        limits=httpx.Limits(max_keepalive_connections=0),
    )

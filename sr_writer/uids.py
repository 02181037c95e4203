"""UIDs of results, derived from what a result was made from, so that a rerun makes the same objects.

References: PS3.5 section B.2 (UUID derived UIDs under the root 2.25), RFC 4122 section 4.3 (UUIDv5).
"""

from __future__ import annotations

import uuid

_NAMESPACE = uuid.UUID("5b0f6f0e-6f3c-5d53-9d5d-0a4c0ae3d1c7")
"""Namespace of overread's name-based UUIDs; changing it would change the UID of every result."""

IMPLEMENTATION_CLASS_UID = f"2.25.{uuid.uuid5(_NAMESPACE, 'implementation').int}"
"""Implementation Class UID (0002,0012) of the files that this room makes."""

IMPLEMENTATION_VERSION_NAME = "OVERREAD"
"""Implementation Version Name (0002,0013), at most 16 characters."""


def derived_uid(seed: str, purpose: str, *index: int | str) -> str:
    """UID that depends only on the arguments.

    Each part is prefixed by its length, so that no two lists of parts give the same UID.

    Args:
        seed: what the result was made from.
        purpose: what the UID identifies, for example ``report series``.
        index: tells several UIDs of one purpose apart.
    """
    parts = (seed, purpose, *(str(part) for part in index))
    name = "".join(f"{len(part)}:{part}" for part in parts)
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def device_uid(model_sha256: str, model_version: str) -> str:
    """Device UID (0018,1002) of a model; other weights or another version give another UID."""
    return derived_uid("device", model_sha256, model_version)

"""Certificates for tests: a CA of their own, and certificates that it has or has not signed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.root = self._self_signed("authority")
        self.certificate = self.root.certificate

    def issue(self, name: str) -> Certificate:
        """A certificate for 127.0.0.1 and localhost."""
        key, request, certificate = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        _openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}"
        )
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.root.certificate, "-CAkey", self.root.key,
            "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        return Certificate(certificate=certificate, key=key)

    def _self_signed(self, name: str) -> Certificate:
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-keyout", key, "-out", certificate, "-subj", f"/CN={name}",
        )  # fmt: skip
        return Certificate(certificate=certificate, key=key)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)

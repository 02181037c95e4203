"""A plain pynetdicom storage SCP, as its documentation shows it: the yardstick of the ingest benchmark.

Usage: python -m benchmarks.plain_scp PORT FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event


def main(port: int, folder: Path) -> None:
    """Serve until killed; files are neither synced nor recorded."""

    def store(event: Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        dataset.save_as(folder / f"{dataset.SOPInstanceUID}.dcm", enforce_file_format=True)
        return 0x0000

    entity = AE(ae_title="PLAIN")
    entity.maximum_associations = 64
    entity.maximum_pdu_size = 0
    entity.supported_contexts = AllStoragePresentationContexts
    entity.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

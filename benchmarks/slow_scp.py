"""A storage SCP that takes its time: pynetdicom, an answer after so many milliseconds, nothing kept.

Usage: python -m benchmarks.slow_scp PORT MILLISECONDS
"""

from __future__ import annotations

import sys
import time

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event


def main(port: int, milliseconds: float) -> None:
    """Serve until killed."""

    def store(_: Event) -> int:
        time.sleep(milliseconds / 1000)
        return 0x0000

    entity = AE(ae_title="PACS")
    entity.maximum_associations = 64
    entity.maximum_pdu_size = 0
    entity.supported_contexts = AllStoragePresentationContexts
    entity.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))

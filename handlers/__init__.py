"""The DICOM network: accepting associations, storing, answering queries, sending.

The folders from the bottom up; each imports only those before it: ``encoding`` (PS3.5), ``upper_layer`` (PS3.8),
``finding`` (what a query matches), ``dimse`` (PS3.7), ``audit``, ``spool`` (received instances on disk),
``sending`` (associations that we open), ``services`` (answers to commands), ``acceptor`` (associations that
peers open).

Other rooms may import only the modules in ``PUBLIC``.
"""

PUBLIC = (
    "errors",
    "settings",
    "acceptor.server",
    "audit.trail",
    "dimse.commitment",
    "sending.acceptance",
    "sending.commitment",
    "sending.parallel",
    "sending.sender",
    "sending.storage_folder",
    "spool.disk",
    "spool.files",
    "spool.folders",
    "spool.part10",
    "spool.stored_files",
    "upper_layer.tls",
)

"""The DICOM network: accepting associations, storing, answering queries, sending.

From the bottom to the top: ``encoding`` (PS3.5), ``upper_layer`` (PS3.8), ``finding`` (what a query matches),
``dimse`` (PS3.7), ``audit``, ``spool`` (what is received, durable), ``sending`` (associations that we open),
``services`` (answers to commands), ``acceptor`` (associations that peers open). Folders import only those below.

Other rooms import what ``PUBLIC`` names.
"""

PUBLIC = (
    "errors",
    "settings",
    "acceptor.server",
    "audit.trail",
    "dimse.commitment",
    "sending.commitment",
    "sending.sender",
    "sending.storage_folder",
    "spool.disk",
    "spool.files",
    "spool.folders",
    "spool.part10",
    "spool.stored_files",
    "upper_layer.tls",
)

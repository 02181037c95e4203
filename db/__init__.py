"""Tables, states, queue and outbox. Knows neither the DICOM network nor torch.

Other rooms import the modules that ``__all__`` names, and no others: tables, migrations, the steps between states and
SQLite's log are this room's own affair.
"""

__all__ = [
    "errors",
    "records",
    "states",
    "database",
    "index",
    "plans",
    "queue",
    "results",
    "outbox",
    "commitment",
    "retention",
    "statistics",
    "wakeup",
    "retry",
]

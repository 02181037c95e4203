"""Tables, states, queue and outbox. Knows neither the DICOM network nor torch.

Other rooms import what ``PUBLIC`` names; tables, migrations, the steps between states and SQLite's log are this
room's own affair.
"""

PUBLIC = (
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
)

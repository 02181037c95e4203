"""Tables, states, queue and outbox. Knows neither the DICOM network nor torch.

Other rooms import only the modules in ``PUBLIC``. Tables, migrations, transitions and SQLite's log are private.
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

"""Errors of the database room.

DatabaseError
├── DatabaseUnavailable   locked or away; the same call may succeed later
│   ├── Contended         another process wrote the same rows
│   └── OutcomeUnknown    the connection broke during the commit
├── SchemaTooNew          written by a newer version
├── StaleLease            the job or delivery is no longer held by the caller
└── IllegalTransition     the state machine has no such step, or the row changed meanwhile
"""

from __future__ import annotations


class DatabaseError(Exception):
    """Something is wrong with the database."""


class DatabaseUnavailable(DatabaseError):
    """The database is locked or does not answer: try again, and look at the server or the disk if it lasts."""


class SchemaTooNew(DatabaseError):
    """The database was written by a newer overread: update overread or use another database."""


class Contended(DatabaseUnavailable):
    """Another process wrote the same rows at the same moment; nothing was written, and trying again helps."""


class OutcomeUnknown(DatabaseUnavailable):
    """The connection broke while a transaction was committed: it may have been written, or not."""


class StaleLease(DatabaseError):
    """The job or delivery is no longer held by this process: it was superseded, cancelled or given to another."""


class IllegalTransition(DatabaseError):
    """The job or delivery cannot take this step from its present state."""

"""Errors of the database room.

DatabaseError
├── DatabaseUnavailable   locked or away; the same call may succeed later
│   ├── Contended         another process wrote the same rows
│   └── OutcomeUnknown    the connection broke during the commit: written or not
├── SchemaTooNew          written by a newer version
├── StaleLease            the job or delivery is no longer held by the caller
└── IllegalTransition     there is no such transition, or the row changed meanwhile
"""

from __future__ import annotations


class DatabaseError(Exception):
    """The base of all errors of this room."""


class DatabaseUnavailable(DatabaseError):
    """The database is locked or does not answer: try again; if that does not help, check the server or the disk."""


class SchemaTooNew(DatabaseError):
    """The database was written by a newer overread: update overread or use another database."""


class Contended(DatabaseUnavailable):
    """Another process wrote the same rows at the same moment. Nothing was written; a second try succeeds."""


class OutcomeUnknown(DatabaseUnavailable):
    """The connection broke during a commit: the transaction may have been written or not."""


class StaleLease(DatabaseError):
    """The job or delivery is no longer held by this process: it was superseded, cancelled or claimed by another."""


class IllegalTransition(DatabaseError):
    """This event is not possible in the present state of the job or delivery."""

"""Why there is no answer, in one line for the log that quotes no statement, value, host or user."""


class DatabaseError(Exception):
    """There is no answer; `http.problems` says what each of those below is there."""


class OverloadedError(DatabaseError):
    """Too many wait already, or this one waited for too long."""


class UnavailableError(DatabaseError):
    """The database cannot be used now, and may be soon."""


class TimedOutError(DatabaseError):
    """The statement was cancelled, as by the statement timeout, or not answered at all."""


class RefusedError(DatabaseError):
    """PostgreSQL refuses the statement: what it reads is missing, or not as the file expects."""

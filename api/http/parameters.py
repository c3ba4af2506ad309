"""Checks and converts the parameters of requests."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache

from api.database.queries import Parameter, Query, QueryFileError, Values
from api.http.problems import Problem

BIGINT_MAX = 2**63 - 1
# a report looks back 180 days, which must not reach before the year 1
FIRST_YEAR = 2
DIGITS = re.compile(r'[0-9]{1,19}')
# an ISO 8601 date, or date and time, which includes RFC 3339; fromisoformat() checks the values. It
# accepts the hour 24 only in some versions of Python. A fraction may have nanoseconds
TIMESTAMP = re.compile(
    r'\d{4}-\d\d-\d\d([T ](?!24)\d\d:[0-5]\d(:\d\d([.,]\d{1,9})?)?(Z|[+-]\d\d(:?[0-5]\d)?)?)?',
    re.ASCII | re.IGNORECASE,
)


def bigint(text: str) -> str:
    """Return an integer without leading zeros.

    Raises:
        ValueError: The text is not an integer from 0 to BIGINT_MAX, of at most 19 ASCII digits.
    """
    if not DIGITS.fullmatch(text) or int(text) > BIGINT_MAX:
        raise ValueError(f'must be an integer from 0 to {BIGINT_MAX}, written with digits only')
    return str(int(text))


def timestamptz(text: str) -> str:
    """Convert an ISO 8601 date or date and time to UTC. The default offset is UTC.

    Raises:
        ValueError: The text is not a time in the years FIRST_YEAR to 9999.
    """
    if TIMESTAMP.fullmatch(text):
        with suppress(ValueError, OverflowError):
            moment = datetime.fromisoformat(text.upper().replace(',', '.'))
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            moment = moment.astimezone(UTC)
            if moment.year >= FIRST_YEAR:
                return moment.isoformat()
    message = (
        f'must be an RFC 3339 time in the years {FIRST_YEAR} to 9999, such as'
        ' 2022-10-07T12:00:00Z or 2022-10-07T14:00:00.123456+02:00; without an offset, it is UTC'
    )
    if ' ' in text:
        message += '. In a query string, + means a space: write %2B for the + of an offset'
    raise ValueError(message)


# by type; the message of a ValueError says what is allowed
READERS: dict[str, Callable[[str], str]] = {'bigint': bigint, 'timestamptz': timestamptz}


@cache
def http_name(name: str) -> str:
    """Return a parameter's name in HTTP: venueId for venue_id."""
    head, *tail = name.split('_')
    return head + ''.join(map(str.capitalize, tail))


def check_route(template: str, query: Query) -> None:
    """Check that a query has the parameters of a route's path, and types that clients can send.

    Raises:
        QueryFileError: A parameter is missing, or its type is not in READERS.
    """
    names = [http_name(parameter.name) for parameter in query.parameters]
    for name in re.findall(r'{(\w+)}', template):
        if name not in names:
            raise QueryFileError(f'{query.path}: the path {template} needs a parameter for {name}')
    for parameter in query.parameters:
        if parameter.type not in READERS:
            allowed = ' or '.join(READERS)
            raise QueryFileError(f'{query.path}: :{parameter.name} must be cast to {allowed}')


def read_parameters(query: Query, path: dict[str, str], sent: dict[str, str | list[str]]) -> Values:
    """Return a value for each parameter of the query: None for an optional one that is missing.

    Args:
        path: The parameters in the path, by their HTTP names.
        sent: The parameters in the query string, by their HTTP names; a list for a repeated one.

    Raises:
        Problem: A parameter is missing, repeated, unknown or malformed.
    """
    names = [http_name(parameter.name) for parameter in query.parameters]
    allowed = [name for name in names if name not in path]
    for name in sent:
        if name not in allowed:
            detail = f'there is no parameter {name[:40]}; allowed here: {", ".join(allowed)}'
            raise Problem('invalid-parameter', detail, parameter=name[:40])
    texts = path | sent
    return {
        parameter.name: read_parameter(parameter, name, texts.get(name))
        for parameter, name in zip(query.parameters, names, strict=True)
    }


def read_parameter(parameter: Parameter, name: str, text: str | list[str] | None) -> str | None:
    if text is None and parameter.is_optional:
        return None
    try:
        if text is None:
            raise ValueError('is required')
        if isinstance(text, list):
            raise ValueError('must be given once')
        return READERS[parameter.type](text)
    except ValueError as ex:
        raise Problem('invalid-parameter', f'{name} {ex}', parameter=name) from ex

"""What clients may send: the text of path segments and query strings, checked and converted."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from api.database.queries import Parameter, Query, QueryFileError, Values
from api.http.problems import Problem

BIGINT_MAX = 2**63 - 1
FIRST_YEAR = 2
DIGITS = re.compile(r'[0-9]{1,19}')
# a year, a month with its longest days, a time up to nanoseconds, an offset
TIMESTAMP = re.compile(
    r'(000[2-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-'
    r'((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)'
    r'|02-(0[1-9]|[12][0-9]))'
    r'([Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]{1,9})?)?'
    r'([Zz]|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)?)?'
)


def bigint(text: str) -> str:
    """Read an integer of 1 to 19 ASCII digits that fits PostgreSQL's bigint.

    Returns:
        It without leading zeros.

    Raises:
        ValueError: It is something else; the message says what is allowed.
    """
    if not DIGITS.fullmatch(text) or int(text) > BIGINT_MAX:
        raise ValueError(f'must be an integer from 0 to {BIGINT_MAX}, in plain digits')
    return str(int(text))


def timestamptz(text: str) -> str:
    """Read an ISO 8601 date or date and time; without an offset it is UTC.

    Returns:
        The instant in UTC, as ISO 8601.

    Raises:
        ValueError: It is no instant of the years 2 to 9999; the message says what is allowed.
            A report as of the year 1 would begin before the calendar does.
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
        f'must be an instant of the years {FIRST_YEAR} to 9999 in ISO 8601, such as'
        ' 2022-10-07T12:00:00Z or 2022-10-07T14:00:00.123456+02:00; without an offset it is UTC'
    )
    if TIMESTAMP.fullmatch('+'.join(text.rsplit(' ', 1))):
        message += '. In a query string + means a space: write %2B for the + of an offset'
    raise ValueError(message)


READERS: dict[str, Callable[[str], str]] = {'bigint': bigint, 'timestamptz': timestamptz}


def http_name(name: str) -> str:
    """Return what clients call a parameter: venue_id is venueId."""
    head, *tail = name.split('_')
    return head + ''.join(map(str.capitalize, tail))


def check_route(template: str, query: Query) -> None:
    """Check that the path of a route and the parameters of a query fit each other.

    Raises:
        QueryFileError: The query lacks a parameter of the path, or has one of a type that no client
            can send.
    """
    names = [http_name(parameter.name) for parameter in query.parameters]
    for name in re.findall(r'{(\w+)}', template):
        if name not in names:
            raise QueryFileError(f'{query.path}: {template} needs a parameter for {name}')
    for parameter in query.parameters:
        if parameter.type not in READERS:
            allowed = ' or '.join(READERS)
            raise QueryFileError(f'{query.path}: :{parameter.name} must be cast to {allowed}')


def read_parameters(query: Query, path: dict[str, str], sent: dict[str, str | list[str]]) -> Values:
    """Convert the parameters of a request to values for a query.

    Args:
        query: The query.
        path: The parameters in the path, by their HTTP names.
        sent: The parameters in the query string, by their HTTP names; a list for a repeated one.

    Returns:
        A value for every parameter of the query, by its name; None for one that was left out.

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
    """Convert one parameter; see read_parameters."""
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

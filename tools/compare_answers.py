"""What two versions of a query answer, and the first difference of two answers."""

import json
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any, NamedTuple

import psycopg
from tqdm import tqdm

from api.database.connection import Connection, in_one_line
from api.database.queries import Query, Values

ABSENT = object()

# the columns of a query's row, or 'error': why there is no row
Answer = dict[str, Any]


class Outcome(NamedTuple):
    """The sets of values by how the answers compare; of those with which both fail, the reasons."""

    equal: list[Values]
    differing: list[tuple[Values, Answer, Answer]]
    failed: list[str]


def compare(connection: Connection, versions: Mapping[str, Query], sets: list[Values]) -> Outcome:
    """Run the versions 'old' and 'new' with each set, in one snapshot and with one now().

    Raises:
        psycopg.Error: The connection broke, or a standby cancelled a query to keep up.
    """
    outcome = Outcome([], [], [])
    for values in tqdm(sets, desc='answers', disable=None, leave=False):
        with connection.transaction():
            old, new = (ask(connection, query, values) for query in versions.values())
        if 'error' in old and 'error' in new:
            outcome.failed.append(old['error'])
        elif old != new:
            outcome.differing.append((values, old, new))
        else:
            outcome.equal.append(values)
    return outcome


def ask(connection: Connection, query: Query, values: Values) -> Answer:
    """Run a query as the service does. A timeout or another error is an answer, too."""
    try:
        with connection.transaction():
            row = connection.execute(*bound(query, values)).fetchone()
            body, missing = row or (None, 'no row')
            return {'missing': missing, 'body': body or b'null'}
    except psycopg.Error as ex:
        if connection.closed or isinstance(ex, psycopg.errors.SerializationFailure):
            raise
        return {'error': in_one_line(ex)}


def difference(old: Answer, new: Answer) -> tuple[str, str, str]:
    """Return where two answers differ first, such as [3].usageCount, and the values there."""
    for name in ('error', 'missing'):
        if old.get(name) != new.get(name):
            return name, old.get(name) or 'none', new.get(name) or 'none'
    bodies = [json.loads(answer['body']) for answer in (old, new)]
    if bodies[0] != bodies[1]:
        return smallest_difference(*bodies, path='')
    pairs = enumerate(zip(old['body'], new['body'], strict=False))
    start = max(next((n for n, (a, b) in pairs if a != b), 0) - 9, 0)
    parts = [answer['body'][start : start + 50] for answer in (old, new)]
    return 'equal JSON, but other bytes', *(part.decode(errors='replace') for part in parts)


def smallest_difference(old: Any, new: Any, path: str) -> tuple[str, str, str]:
    """Return the path and the values of the first element that differs in two JSON values."""
    if type(old) is not type(new) or not isinstance(old, dict | list):
        return path or 'body', shorten(old), shorten(new)
    if isinstance(old, dict):
        parts = [(f'.{key}', old.get(key, ABSENT), new.get(key, ABSENT)) for key in old | new]
    else:
        elements = zip_longest(old, new, fillvalue=ABSENT)
        parts = [(f'[{n}]', *each) for n, each in enumerate(elements)]
    part, one, other = next(each for each in parts if each[1] != each[2])
    if isinstance(old, list) and len(old) != len(new):  # the longer list has one more here
        one, other = (one, ABSENT) if len(old) > len(new) else (ABSENT, other)
    return smallest_difference(one, other, path + part)


def shorten(value: Any) -> str:
    """Return the text of a JSON value, or the beginning of a long one."""
    text = 'absent' if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) < 100 else f'{text[:100]}...'


def bound(query: Query, values: Mapping[str, Any]) -> tuple[bytes, list]:
    """Return a query and its values in the order of its parameters."""
    return query.sql, [values[each.name] for each in query.parameters]

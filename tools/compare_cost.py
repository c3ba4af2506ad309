"""What two versions of a query cost: EXPLAIN ANALYZE of both, in custom and in generic plans.

EXPLAIN ANALYZE tells time, buffers, rows and nodes at once. It does not time each node, since that
would slow down a plan in which many rows pass from node to node.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from statistics import fmean, median, quantiles
from typing import Any

import psycopg
from tqdm import tqdm

from api.database.queries import FOLDER, Query, Values

TABLE_SIZES = FOLDER.with_name('table_sizes.sql')
MODES = ('custom', 'generic')
MOST_CHANGES = 8

# a node of EXPLAIN's JSON; the top node also has the time of the execution
Plan = dict[str, Any]
# the plans of all executions, by mode and version
Plans = dict[tuple[str, str], list[Plan]]


def measure(
    connection: psycopg.Connection, versions: Mapping[str, Query], sets: list[Values]
) -> Plans:
    """Run both versions with each set, in the order old, new, new, old.

    Args:
        connection: A connection in autocommit mode. Each execution is a transaction.
        versions: The queries by 'old' and 'new'.
        sets: The values.

    Returns:
        The plans; none if an execution fails, as by the statement timeout.
    """
    labels = [*versions, *reversed(versions)]
    turns = [(mode, values, label) for mode in MODES for values in sets for label in labels]
    plans: Plans = {(mode, label): [] for mode in MODES for label in versions}
    try:
        for label, query in versions.items():
            connection.execute(f'prepare {label} as '.encode() + query.sql)
        for mode, values, label in tqdm(turns, desc='cost', disable=None, leave=False):
            arguments = [values[each.name] for each in versions[label].parameters]
            plans[mode, label].append(explain(connection, mode, label, arguments))
    except psycopg.Error:
        return {}
    return plans


def explain(connection: psycopg.Connection, mode: str, name: str, arguments: list) -> Plan:
    """Run a prepared statement in EXPLAIN ANALYZE; returns its plan."""
    call = f'execute {name} ({", ".join(["%s"] * len(arguments))})'
    with connection.transaction():
        connection.execute(f'set local plan_cache_mode = force_{mode}_plan')
        cursor = psycopg.ClientCursor(connection).execute(
            f'explain (analyze, buffers, timing off, format json) {call}', arguments
        )
    [explained] = json.loads(cursor.fetchone()[0])
    return {**explained['Plan'], 'ms': explained['Execution Time']}


def nodes(plan: Plan) -> Iterator[Plan]:
    """Yield the nodes of a plan, from the top."""
    yield plan
    for child in plan.get('Plans', []):
        yield from nodes(child)


def describe_server(connection: psycopg.Connection, plans: Plans) -> list[str]:
    """Return lines about the server and the tables that were read, as `make explain` does."""
    found = [node for each in plans.values() for plan in each for node in nodes(plan)]
    names = {node['Relation Name'] for node in found if 'Relation Name' in node}
    text = TABLE_SIZES.read_text().replace(":'tables'", psycopg.sql.quote('\n'.join(names)))
    [told] = connection.execute(text).fetchone()
    return told.splitlines()


def rows_read(plan: Plan) -> float:
    """Return how many rows of tables a plan read, with those that a filter removed."""
    counts = ('Actual Rows', 'Rows Removed by Filter', 'Rows Removed by Index Recheck')
    scans = [node for node in nodes(plan) if 'Relation Name' in node]
    return sum(node.get(name, 0) * node['Actual Loops'] for node in scans for name in counts)


def summary(plans: list[Plan]) -> dict[str, float]:
    """Return the times of executions, and the means of what they read."""
    times = [plan['ms'] for plan in plans]
    return {
        'median, ms': median(times),
        '95th percentile, ms': quantiles(times, n=20, method='inclusive')[-1],
        'shared buffers': fmean(p['Shared Hit Blocks'] + p['Shared Read Blocks'] for p in plans),
        'rows read': fmean(map(rows_read, plans)),
        'temporary blocks': fmean(p['Temp Read Blocks'] + p['Temp Written Blocks'] for p in plans),
    }


def table(plans: Plans) -> list[str]:
    """Return the lines of a table of all that is measured, 80 columns wide."""
    if not plans:
        return []
    costs = [summary(each) for each in plans.values()]
    lines = [
        '',
        ' ' * 20 + ''.join(f'{mode + " plans":>30}' for mode in MODES),
        ' ' * 20 + f'{"old":>15}{"new":>15}' * len(MODES),
    ]
    for name in costs[0]:
        digits = 2 if 'ms' in name else 0
        lines.append(f'{name:20}' + ''.join(f'{cost[name]:15,.{digits}f}' for cost in costs))
    return lines


def verdict(plans: Plans) -> list[str]:
    """Compare the new version's speed and buffers with the old one's: the ranges over the modes."""
    if not plans:
        return ['cost not known']
    costs = {key: summary(each) for key, each in plans.items()}
    pairs = [(costs[mode, 'old'], costs[mode, 'new']) for mode in MODES]
    times = [new['median, ms'] / max(old['median, ms'], 0.001) for old, new in pairs]
    buffers = [new['shared buffers'] / max(old['shared buffers'], 1) for old, new in pairs]
    speeds = [1 / max(ratio, 0.001) for ratio in times]
    is_faster = max(speeds) >= 1
    return [
        f'{spread(speeds)} times as fast' if is_faster else f'takes {spread(times)} times as long',
        f'{spread(buffers)} of the buffers',
    ]


def spread(ratios: list[float]) -> str:
    """Return the least and the greatest of some ratios, once if they are the same."""
    return ' to '.join(dict.fromkeys(f'{ratio:.1f}' for ratio in (min(ratios), max(ratios))))


def changed_nodes(plans: Plans) -> list[str]:
    """Return lines with the nodes that changed: in each mode, in the first plans that differ."""
    lines = []
    for mode in MODES if plans else ():
        pairs = zip(plans[mode, 'old'], plans[mode, 'new'], strict=True)
        found = next(filter(None, (changes(old, new) for old, new in pairs)), [])
        more = [f'and {len(found) - MOST_CHANGES} more'] if len(found) > MOST_CHANGES else []
        lines += ['', f'Nodes of {mode} plans: {"the same" if not found else "old → new"}']
        shown = found[:MOST_CHANGES] + more
        lines += [textwrap.fill(f'  {line}', 80, subsequent_indent='    ') for line in shown]
    return lines


def changes(old: Plan, new: Plan) -> list[str]:
    """Return which nodes of a plan changed, as `Hash Join → Nested Loop`, from the top."""
    before, after = ([describe_node(node) for node in nodes(plan)] for plan in (old, new))
    steps = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [
        f'{", ".join(before[a:b]) or "nothing"} → {", ".join(after[c:d]) or "nothing"}'
        for tag, a, b, c, d in steps
        if tag != 'equal'
    ]


def describe_node(node: Plan) -> str:
    """Return what a node does, and the index, table or CTE that it reads."""
    read = node.get('Index Name') or node.get('Relation Name') or node.get('CTE Name')
    return ' '.join(filter(None, [node.get('Strategy'), node['Node Type'], read]))

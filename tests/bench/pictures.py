"""The pictures that are made of the figures: SVG that reads on light and on dark pages.

`.venv-bench` runs this: it has matplotlib.
"""

import sys
from collections.abc import Callable, Iterable
from datetime import date
from itertools import pairwise
from pathlib import Path
from statistics import median
from textwrap import wrap

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tests.bench.results import (
    AVAILABLE,
    FASTAPI,
    FASTAPI_QUIET,
    GRANIAN,
    GUNICORN,
    INACTIVITY,
    OURS,
    OURS_QUIET,
    PGBENCH,
    TOP,
    Results,
    ratio,
)
from tests.bench.tables import number, ratio_of

# a name for each colour, on light and on dark; the picture brings its own ground
COLOURS = {
    'ground': ('#ffffff', '#0d1117'),
    'ink': ('#1f2328', '#f0f6fc'),
    'faint': ('#59636e', '#9198a1'),
    'grid': ('#d8dee4', '#2d333b'),
    'blue': ('#0550ae', '#58a6ff'),
    'orange': ('#bc4c00', '#f0883e'),
    'green': ('#116329', '#56d364'),
    'purple': ('#6639ba', '#bc8cff'),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}

# the colour and the line of each form and server
FORMS = {
    'ours': ('ours', 'blue', '-'),
    'plain': ('plain form', 'orange', '--'),
    'count': ('bare count', 'faint', ':'),
}
SERVERS = {
    PGBENCH: ('pgbench, no HTTP', 'faint', ':'),
    OURS: ('ours, log on', 'blue', '-'),
    OURS_QUIET: ('ours, quiet', 'blue', '--'),
    FASTAPI: ('FastAPI, log on', 'orange', '-'),
    FASTAPI_QUIET: ('FastAPI, quiet', 'orange', '--'),
    GRANIAN: ('granian, quiet', 'green', '--'),
    GUNICORN: ('gunicorn, quiet', 'purple', '--'),
}
# the number of connections that the title tells of
TOLD = 16
SMALL = 8
SMALL_PER_INCH = 15
NO_BREAK = '\xa0'
# of the axes' height, between two labels, and of their width, from a line to its label
LABEL_GAP = 0.056
LEADER = 0.045

mpl.rcParams |= {
    'font.family': 'sans-serif',
    'font.size': 10,
    'svg.fonttype': 'none',
    'svg.hashsalt': 'bench',
    'figure.facecolor': LIGHT['ground'],
    'axes.facecolor': LIGHT['ground'],
    'axes.edgecolor': LIGHT['faint'],
    'axes.labelcolor': LIGHT['ink'],
    'axes.titlecolor': LIGHT['ink'],
    'axes.titlesize': 9.5,
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.color': LIGHT['grid'],
    'grid.linewidth': 0.7,
    'text.color': LIGHT['ink'],
    'xtick.color': LIGHT['faint'],
    'ytick.color': LIGHT['faint'],
    'lines.linewidth': 1.8,
    'lines.markersize': 4,
}


def growth(results: Results) -> Figure | None:
    """Draw each report's time against the number of uses; None if it was not measured."""
    found = {
        report: sorted(records, key=lambda record: record['uses'])
        for report in (INACTIVITY, AVAILABLE, TOP)
        if (records := results.records('growth', report=report))
    }
    if not found:
        return None
    figure, [panels] = plt.subplots(
        1, len(found), figsize=(9.8, 4.4), sharey=True, squeeze=False, layout='constrained'
    )
    for axes, (report, records) in zip(panels, found.items(), strict=True):
        uses = [record['uses'] for record in records]
        axes.set(xscale='log', yscale='log', xlim=(uses[0] / 1.5, uses[-1] * 60))
        ticks(axes.xaxis, uses, short)
        axes.set_xlabel('uses in the table')
        first, last = (record['ms'] for record in (records[0], records[-1]))
        axes.set_title(
            f'{report}: {times(ratio(last["plain"], last["ours"]))} as fast\n'
            f'as its plain form at {short(uses[-1])} uses'
        )
        for form, (_, colour, style) in FORMS.items():
            if form in last:
                ms = [median(record['ms'][form]) for record in records]
                axes.plot(uses, ms, marker='o', color=LIGHT[colour], linestyle=style)
    low, high = panels[0].get_ylim()
    panels[0].set(ylim=(low, high), ylabel='milliseconds, median')
    ticks(panels[0].yaxis, [10.0**n for n in range(-3, 6) if low <= 10.0**n <= high], plain)
    for axes, records in zip(panels, found.values(), strict=True):
        ends = {form: median(ms) for form, ms in records[-1]['ms'].items() if form in FORMS}
        lines = [(*FORMS[form][:2], ms, number(ms)) for form, ms in ends.items()]
        label(axes, records[-1]['uses'], lines)
    [report, *_] = found
    first, last = found[report][0], found[report][-1]
    slower = [ratio(last['ms']['alone'], first['ms']['alone'])]
    slower.append(median(last['ms']['plain']) / median(first['ms']['plain']))
    title(
        figure,
        f'{times(last["uses"] / first["uses"])} the uses: {report} takes {times(slower[0])}'
        f' as long, its plain form {times(slower[1])}',
    )
    rounds = len(first['ms']['ours'])
    small_print(figure, results.runs()['growth'], rounds, ['k: thousand, M: million'])
    return figure


def connections(results: Results) -> Figure | None:
    """Draw answers in a second against connections; None if they were not measured."""
    records = results.records('http', report=AVAILABLE)
    if not records:
        return None
    figure, axes = plt.subplots(figsize=(8.6, 5), layout='constrained')
    counts = [record['connections'] for record in records]
    axes.set(xscale='log', yscale='log', xlim=(counts[0] / 1.15, counts[-1] * 3.6))
    axes.set(xlabel='connections kept and asked on at once', ylabel='answers per second, median')
    ends = {}
    for name, (_, colour, style) in SERVERS.items():
        if all(record['rounds'].get(name) for record in records):
            per_s = [median(f['per_s'] for f in record['rounds'][name]) for record in records]
            axes.plot(counts, per_s, marker='o', color=LIGHT[colour], linestyle=style)
            ends[name] = per_s[-1]
    low, high = axes.get_ylim()
    axes.set(ylim=(low, high))
    ticks(axes.xaxis, counts, plain)
    ticks(axes.yaxis, [v for v in round_values() if low <= v <= high], plain)
    lines = [(*SERVERS[name][:2], per_s, f'{per_s:,.0f}') for name, per_s in ends.items()]
    label(axes, counts[-1], lines)
    told = next((r for r in records if r['connections'] == TOLD), records[-1])
    title(
        figure,
        f'With its log on, {times(ratio_of(told, OURS, FASTAPI_QUIET))} the answers of FastAPI'
        f' without a log,\nand {number(ratio_of(told, OURS, PGBENCH))} of what PostgreSQL gives'
        f' pgbench, at {told["connections"]} connections',
    )
    run = results.runs()['http']
    versions = {'Python': run['Python']} | run['packages']
    more = ['quiet: no access log', *(f'{name} {version}' for name, version in versions.items())]
    small_print(figure, run, len(told['rounds'][OURS]), [f'random ids of {AVAILABLE}', *more])
    return figure


def title(figure: Figure, text: str) -> None:
    """Write what a picture shows above it."""
    figure.suptitle(text, x=0.01, ha='left', fontweight='bold')


def ticks(axis: Axis, values: list[float], text: Callable[[float], str]) -> None:
    """Mark these values on an axis and no others."""
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def round_values() -> list[float]:
    """Return 1, 2 and 5 times the powers of ten."""
    return [digit * 10.0**power for power in range(7) for digit in (1, 2, 5)]


def label(axes: Axes, x: float, lines: Iterable[tuple[str, str, float, str]]) -> None:
    """Write names at the ends of lines, apart from each other.

    Args:
        axes: Where; its limits are set.
        x: Where the lines end.
        lines: Each line's name, colour, last value, and what is told of that.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    ordered = sorted(lines, key=lambda line: line[2])
    ends = [tuple(to_axes.transform((x, y))) for _, _, y, _ in ordered]
    places = apart([height for _, height in ends])
    for (name, colour, _, told), (right, height), place in zip(ordered, ends, places, strict=True):
        axes.annotate(
            f'{name} {told}',
            (right, height),
            (right + LEADER, place),
            xycoords='axes fraction',
            textcoords='axes fraction',
            va='center',
            fontsize=9,
            color=LIGHT[colour],
            arrowprops={
                'arrowstyle': '-',
                'color': LIGHT[colour],
                'linewidth': 0.6,
                'relpos': (0, 0.5),
                'shrinkA': 0,
                'shrinkB': 3,
            },
        )


def apart(heights: list[float]) -> list[float]:
    """Return ascending heights moved from each other until LABEL_GAP is between any two."""
    heights = list(heights)
    for _ in range(100):
        for place, (low, high) in enumerate(pairwise(heights)):
            lacking = max(LABEL_GAP - (high - low), 0)
            heights[place] -= lacking / 2
            heights[place + 1] += lacking / 2
    return heights


def small_print(figure: Figure, run: dict, rounds: int, more: list[str]) -> None:
    """Write under a picture when, where, how often and with what it was measured."""
    facts = [
        f'{date.fromisoformat(run["date"]):%d %B %Y}',
        f'commit {run["commit"]}',
        *(f'{run[what]} {what}' for what in ('cores', 'uses', 'venues', 'benefits')),
        f'PostgreSQL {run["PostgreSQL"]}',
        *more,
        f'medians of {rounds} rounds in turns',
    ]
    # lines end between the facts
    text = ', '.join(fact.replace(' ', NO_BREAK) for fact in facts)
    lines = wrap(text, int(figure.get_figwidth() * SMALL_PER_INCH))
    figure.supxlabel(
        '\n'.join(lines).replace(NO_BREAK, ' '),
        x=0.01,
        ha='left',
        fontsize=SMALL,
        color=LIGHT['faint'],
    )


def plain(value: float) -> str:
    """Return a number such as 0.1 or 20,000."""
    return f'{value:,.0f}' if value >= 1 else f'{value:g}'


def short(value: float) -> str:
    """Return a number of uses such as 200k or 20M."""
    for unit, letter in ((10**6, 'M'), (10**3, 'k')):
        if value >= unit:
            return f'{value / unit:g}{letter}'
    return f'{value:g}'


def times(value: float | None) -> str:
    """Return how many times something is."""
    return (
        '- times'
        if value is None
        else f'{value:.2f} times'
        if value < 10
        else f'{value:,.0f} times'
    )


def save(figure: Figure, path: Path) -> None:
    """Write a picture whose colours follow the page's."""
    figure.savefig(path, metadata={'Date': None, 'Creator': None})
    text = path.read_text()
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f'var(--{name})')
    themes = [
        ';'.join(f'--{name}:{colours[place]}' for name, colours in COLOURS.items())
        for place in (0, 1)
    ]
    style = (
        f'<style>svg{{{themes[0]}}}@media(prefers-color-scheme:dark){{svg{{{themes[1]}}}}}</style>'
    )
    head, end, rest = text.partition('<defs>')
    path.write_text(head + style + end + rest)
    plt.close(figure)


def main() -> int:
    """Draw the pictures of a folder into it."""
    folder = Path(sys.argv[1])
    results = Results(folder)
    for name, draw in {'growth': growth, 'connections': connections}.items():
        if figure := draw(results):
            save(figure, folder / f'{name}.svg')
            print(f'{folder / name}.svg')
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""The pictures of the figures: SVG that reads well on light and on dark pages.

`.venv-bench` runs this, because it has matplotlib.
"""

import sys
from pathlib import Path
from statistics import median

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tests.bench.results import REPORTS, SERVERS, Results
from tests.bench.tables import figures, number

# the light and the dark value of every colour; save() makes the page choose
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

# the colour and line style of every form, and of the servers that use all cores
FORMS = {
    'ours': ('report', 'blue', '-'),
    'plain': ('plain form', 'orange', '--'),
    'count': ('bare count', 'faint', ':'),
}
LINES = [('blue', '-'), ('orange', '--'), ('green', '--'), ('purple', '--'), ('faint', ':')]

plt.style.use(Path(__file__).with_suffix('.mplstyle'))


def growth(results: Results) -> Figure | None:
    """Draw the time of every report against the number of uses; None if it was not measured."""
    if not results.sql_parts():
        return None
    part = results.sql_parts()[-1]
    figure, panels = plt.subplots(1, len(REPORTS), sharey=True)
    for axes, report in zip(panels, REPORTS, strict=True):
        records = results.records(part, report=report)
        uses = [record['uses'] for record in records]
        axes.set(xscale='log', yscale='log', xlabel='uses in the table', title=report)
        axes.set_xticks(uses, map(short, uses))
        axes.minorticks_off()
        for form, (name, colour, style) in FORMS.items():
            if form in records[0]['ms']:
                ms = [median(record['ms'][form]) for record in records]
                label = f'{name}: {number(ms[-1])} ms'
                axes.plot(uses, ms, label=label, color=LIGHT[colour], linestyle=style)
        axes.legend(loc='upper left')
    low, high = panels[0].get_ylim()
    panels[0].set(ylim=(low, high * 10), ylabel='milliseconds, median')  # room for the legends
    panels[0].yaxis.set_major_formatter('{x:,.6g}')
    facts = f'times at {short(uses[-1])} uses, k: thousand, M: million'
    title = 'Milliseconds of each report and of its plain form, by the number of uses'
    return described(figure, title, results.runs()[part], facts)


def distance(results: Results) -> Figure | None:
    """Draw answers per second against distance; None if they were not measured."""
    records = results.records('http')
    if not records:
        return None
    connections = sorted({record['connections'] for record in records})
    figure, panels = plt.subplots(1, len(connections), sharey=True)
    for axes, count in zip(panels, connections, strict=True):
        found = [record for record in records if record['connections'] == count]
        distances = [record['distance_ms'] for record in found]
        axes.set(title=f'{count} kept connections', xlabel='latency in milliseconds')
        axes.set_xticks(distances)
        for name, (colour, style) in zip(SERVERS, LINES, strict=False):
            per_s = [median(figures(record, name, 'per_s')) for record in found]
            axes.plot(distances, per_s, label=name, color=LIGHT[colour], linestyle=style)
    panels[0].set(ylim=(0, None), ylabel='responses per second, median')
    panels[0].yaxis.set_major_formatter('{x:,.0f}')
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside right center')
    title = 'Responses per second, by the latency of the database'
    facts = 'this service with its log, the others without'
    return described(figure, title, results.runs()['http'], facts)


def described(figure: Figure, title: str, run: dict, facts: str) -> Figure:
    """Write a title above a picture, and under it when, where and with what it was measured."""
    figure.suptitle(title, x=0.01, ha='left', fontweight='bold')
    text = (
        f'{run["date"]}, commit {run["commit"]}, PostgreSQL {run["PostgreSQL"]},'
        f' {run["cores"]} cores, {run["uses"]} uses, {run["venues"]} venues, {facts}'
    )
    figure.supxlabel(text, x=0.01, ha='left', fontsize=8, color=LIGHT['faint'])
    return figure


def short(value: float) -> str:
    """Return a number of uses such as 200k or 20M."""
    return f'{value / 10**6:g}M' if value >= 10**6 else f'{value / 10**3:g}k'


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
    path.write_text(text.replace('<defs>', f'{style}<defs>', 1))
    plt.close(figure)


def main() -> None:
    """Draw the pictures of a folder into it."""
    folder = Path(sys.argv[1])
    results = Results(folder)
    for draw in (growth, distance):
        if figure := draw(results):
            save(figure, folder / f'{draw.__name__}.svg')
            print(f'{folder / draw.__name__}.svg')


if __name__ == '__main__':
    main()

"""The pages README, SECURITY, docs/ and db/: their code blocks, tables, names and links."""

import re
from pathlib import Path

from tests.support.project import ROOT

OF_CITUS = ROOT / 'db' / 'citus' / 'README.md'
SCALING = ROOT / 'db' / 'scaling.md'
OF_DBAS = [ROOT / 'db' / 'README.md', SCALING, OF_CITUS]
PATHS = [ROOT / 'README.md', ROOT / 'SECURITY.md', *sorted((ROOT / 'docs').glob('*.md')), *OF_DBAS]
PAGES = {path: path.read_text() for path in PATHS}
BASE = 'http://127.0.0.1:8000'


def blocks(language: str, *paths: Path) -> list[str]:
    """Return the code blocks of a language; by default, of all pages."""
    pattern = rf'^```{language}\n(.*?)^```$'
    return [
        block
        for path in paths or PATHS
        for block in re.findall(pattern, PAGES[path], re.MULTILINE | re.DOTALL)
    ]


def commands(*paths: Path) -> list[str]:
    """Return the shell commands without comments; by default, of all pages."""
    text = '\n'.join(blocks('sh', *paths)).replace('\\\n', ' ')
    return [re.sub(r' +#.*', '', line) for line in text.splitlines() if line]


def command(beginning: str) -> str:
    """Return the only command with this beginning."""
    [found] = [line for line in commands() if line.startswith(beginning)]
    return found


def tables() -> dict[str, list[list[str]]]:
    """Return every table's rows, as cells, by the first column's title, up to a comma."""
    found = {}
    for text in PAGES.values():
        for title, rows in re.findall(
            r'^\|([^\n|]*)\|[^\n]*\n\| ---[^\n]*\n((?:\|[^\n]*\n)+)', text, re.MULTILINE
        ):
            name = title.partition(',')[0].strip()
            assert name not in found, title
            found[name] = [
                [cell.strip() for cell in row.strip('|').split('|')] for row in rows.splitlines()
            ]
    return found


def names(text: str) -> list[str]:
    """Return the texts in backquotes."""
    return re.findall(r'`([^`\n]+)`', text)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as on GitHub."""
    prose = re.sub(r'^```.*?^```$', '', text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r'^#+ (.+)$', prose, re.MULTILINE)
    return {re.sub(r'[^\w -]', '', heading).lower().replace(' ', '-') for heading in headings}

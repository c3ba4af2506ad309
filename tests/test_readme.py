"""README, docs/ and db/README.md: their examples work, and their facts match the code."""

import re
import sys
from pathlib import Path

import pytest
from msgspec.structs import fields

from api.app import REPORTS
from api.config import Settings, known_settings
from api.database.queries import FOLDER
from tests.pages import BASE, PAGES, PATHS, anchors, blocks, commands, names, tables
from tests.support.commands import run
from tests.support.machine import system_program
from tests.support.project import ROOT
from tests.support.service import ApiProcess

README = ROOT / 'README.md'
DBA_README = ROOT / 'db' / 'README.md'
DOCS = [path for path in PATHS if path.parent == ROOT / 'docs']


def examples(language: str) -> list[str]:
    """Return the code blocks of a language that call the service."""
    return [block for block in blocks(language) if BASE in block]


def of_ours(api: ApiProcess, *command: str) -> str:
    """Run a command with the URL of the test's service; returns its output."""
    return run(*[word.replace(BASE, api.url) for word in command])


@pytest.mark.parametrize('path', PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r'\]\(([^)]+)\)', PAGES[path]):
        if link.startswith('https://'):
            continue
        file, _, anchor = link.partition('#')
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_readme_is_short_and_leads_to_every_page() -> None:
    text = PAGES[README]
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1500
    for path in [*DOCS, DBA_README]:
        assert f']({path.relative_to(ROOT)})' in text


def test_every_default_that_is_told_is_so() -> None:
    defaults = {f.name: f.default for f in fields(Settings)}
    told = re.findall(r'`(\w+)` \((\d[\d,]*)\)', '\n'.join(PAGES.values()))
    assert len(told) >= 3
    for name, value in told:
        assert int(value.replace(',', '')) == defaults[name], name


def test_every_variable_that_is_named_exists() -> None:
    known = {variable for *_, variable in known_settings()} | {'API_CONFIG', 'API_'}
    files = [*PATHS, *(ROOT / 'deploy').iterdir(), ROOT / 'Makefile', ROOT / 'config.example.toml']
    for path in files:
        assert set(re.findall(r'\bAPI_[A-Z0-9_]*', path.read_text())) <= known, path


def test_table_of_reports_is_that_of_the_code() -> None:
    told = {}
    for request, _, sql in tables()['request']:
        [(file, target)] = re.findall(r'\[(\w+)\.sql\]\((.+)\)', sql)
        assert ROOT / target == FOLDER / f'{file}.sql'
        told[names(request)[0].removeprefix('GET ').partition('?')[0]] = file
    served = {report.path: report.query for report in REPORTS}
    lacking = served.keys() - told.keys()
    assert not lacking, f'the table of reports in README.md lacks {lacking}'
    assert told == served


def test_table_of_rules_is_that_of_the_files() -> None:
    def rules(name: str) -> list[tuple[str, str]]:
        text = (FOLDER / f'{name}.sql').read_text()
        return re.findall(r"\('(\w+)', interval '(\d+ \w+)'\)", text)

    rows = [(names(row[0])[0], *row[1:]) for row in tables()['recurrence']]
    assert [(kind, cooldown) for kind, cooldown, _ in rows] == rules('available_benefits')
    assert [(kind, silence) for kind, _, silence in rows] == rules('inactivity_periods')


def answers_in_the_readme() -> list[tuple[str, str]]:
    """Return the URLs and responses in README."""
    return re.findall(r"^curl '(.+?)'\n```\n\n```\n(.+)\n```$", PAGES[README], re.MULTILINE)


def test_answers_in_the_readme_are_those_of_the_sample_data(api: ApiProcess) -> None:
    def plain(text: str) -> str:
        # white space may differ, and the sample data is relative to now
        return re.sub(r'"\d{4}-\d\d-\d\dT[^"]+"', '"time"', re.sub(r'\s', '', text))

    shown = answers_in_the_readme()
    assert len(shown) == len(REPORTS), f'README.md lacks a request and answer of {REPORTS}'
    for url, answer in shown:
        whole = plain(api.get(url.removeprefix(BASE)).text)
        pieces = [piece.strip('[],') for piece in plain(answer).split('...')]
        assert len(pieces) > 1
        for piece in pieces:
            assert piece in whole


@pytest.mark.parametrize(
    'command', [c for c in commands() if c.startswith('curl ') and BASE in c and '$TOKEN' not in c]
)
def test_curl_examples(api: ApiProcess, command: str) -> None:
    system_program('curl', 'curl')
    printed = of_ours(api, 'sh', '-c', command)
    assert re.search('venueId|benefitId|HTTP/1.1 304|"ready"', printed)


@pytest.mark.parametrize('block', examples('python'))
def test_python_examples(api: ApiProcess, block: str) -> None:
    assert of_ours(api, sys.executable, '-W', 'error', '-c', block)


@pytest.mark.parametrize('block', examples('js'))
def test_javascript_examples(api: ApiProcess, block: str) -> None:
    node = system_program('node', 'nodejs')
    assert of_ours(api, node, '--input-type=module', '--eval', block)


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'^([a-z-]+):', makefile, re.MULTILINE))
    changelog = (ROOT / 'CHANGELOG.md').read_text()
    named = set()
    for text in [*PAGES.values(), changelog]:
        named |= set(re.findall(r'(?:^|`|bin )make ([a-z-]+)', text, re.MULTILINE))
    assert {'run', 'dev', 'explain', 'pgbench', 'test', 'token'} <= named <= targets

"""README, docs/ and db/README.md: what they show works, and what they tell is so."""

import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import fields

from api.app import REPORTS
from api.config import Settings, places
from api.database.queries import FOLDER
from api.http.reports import Report
from tests.pages import BASE, PAGES, PATHS, anchors, blocks, commands, names, tables
from tests.support.commands import run
from tests.support.machine import system_program
from tests.support.project import ROOT
from tests.support.service import ApiProcess

README = ROOT / 'README.md'
DBA_README = ROOT / 'db' / 'README.md'
DOCS = [path for path in PATHS if path.parent.name == 'docs']

# which test runs the commands that begin like this; those of db/README.md are all test_dba_readme's
RUN_BY = {
    'make run': 'test_embedded.py::test_make_run',
    'DATABASE_URL=postgresql://user@host:5432/name make run': 'test_embedded.py::test_make_run',
    'make token': 'test_makefile.py::test_make_token',
    "curl 'http://": 'test_readme.py::test_curl_examples',
    "curl -si 'http://": 'test_readme.py::test_curl_examples',
    "curl --fail 'http://": 'test_readme.py::test_curl_examples',
    'curl -H "Authorization:': 'test_operating.py::test_example_with_a_token',
    'openapi-python-client ': 'clients/test_generated.py::test_python',
    'npx openapi-typescript ': 'clients/test_generated.py::test_openapi_typescript',
    'openssl req ': 'faults/test_tls.py::test_self_signed_certificate_as_the_page_makes_it',
    "DATABASE_URL='": 'faults/test_tls.py::test_url_of_the_page_is_what_is_tested_here',
    'useradd ': 'test_deploying.py::test_steps',
    'git clone ': 'test_deploying.py::test_steps',
    'cd /opt/': 'test_deploying.py::test_steps',
    'python3 -m venv ': 'test_deploying.py::test_steps',
    '.venv/bin/python -m pip ': 'test_deploying.py::test_steps',
    'install ': 'test_deploying.py::test_steps',
    'editor ': 'test_deploying.py::test_steps',
    'API_CONFIG=': 'test_deploying.py::test_steps',
    'psql "$ADMIN_URL" ': 'functions/shards.py::citus_cluster',
    'DATABASE_URL="$ADMIN_URL" ': 'functions/shards.py::citus_cluster',
}
NOT_RUN = {
    'make test': 'the tests would run themselves',
    'make soak': 'the tests would run themselves',
    'make check': 'the tests would run themselves',
    'POSTGRES_BIN=': 'the tests would run themselves',
    'make mutants': 'the tests would run themselves',
    'make bench': 'takes many minutes; nothing here depends on its figures',
    'systemctl ': 'needs a systemd that runs; test_deploying.py verifies the unit',
    'docker ': 'needs a container engine; test_deploying.py does the steps of the Dockerfile',
    'nginx -t': "is about the system's nginx; faults/test_nginx.py runs one with the file",
    "curl --fail 'https://": 'there is no such host; faults/test_nginx.py asks one of its own',
    'export PROMETHEUS_MULTIPROC_DIR=': 'test_other_servers.py sets it',
    'gunicorn ': 'test_other_servers.py runs it',
    'granian ': 'test_other_servers.py runs it',
    'pip-audit ': 'asks a service on the internet',
    r"""psql "$DATABASE_URL" -c '\password""": 'asks for a password on a terminal',
}
# which test compares a table with the code, or why none does
COMPARED_BY = {
    'request': 'test_readme.py::test_table_of_reports_is_that_of_the_code',
    'recurrence': 'test_readme.py::test_table_of_rules_is_that_of_the_files',
    'package': 'test_readme.py::test_table_of_packages_is_what_is_installed',
    'command': 'test_readme.py::test_every_make_target_that_is_named_exists',
    'status': 'http/test_openapi.py::test_table_of_problems_is_that_of_the_code',
    'endpoint': 'test_operating.py::test_table_of_endpoints_is_what_answers',
    'signal to the parent': 'server/test_stop.py::test_end_waits_no_longer_than_it_should',
    'waitress': 'http/test_malformed_http.py::test_table_of_what_waitress_decides',
    'limit': 'test_operating.py::test_table_of_limits_is_that_of_the_code',
    'name': 'test_operating.py::test_table_of_metrics_is_what_is_scraped',
    **dict.fromkeys(
        [
            *('run', 'answers/s', 'ours divided by', 'CPU time per answer in µs'),
            *('ms in SQL', 'ms without indexes', 'ms on older PostgreSQL', 'memory'),
        ],
        'test_bench.py::test_tables_of_the_page_are_made_of_its_figures',
    ),
}
NOT_COMPARED = dict.fromkeys(
    [
        *('', 'too much', 'on Citus'),
        *('top_benefits in ms', 'inactivity_periods in ms', 'no indexes'),
    ],
    'measured',
)
# settings of others that the pages name, spelled as ours are
OF_OTHERS = {
    *('hot_standby_feedback', 'max_standby_streaming_delay', 'enable_partitionwise_aggregate'),
    *('target_session_attrs', 'load_balance_hosts', 'pg_stat_statements', 'connect_timeout'),
    *('max_connections', 'truncate_local_data_after_distributing_table', 'plan_cache_mode'),
    *('pool_mode', 'max_prepared_statements', 'ignore_startup_parameters', 'search_path'),
}
# tables and columns of the database, members of log lines, files
OTHER_NAMES = {
    *('benefit_usage', 'benefit_usage_whole', 'held_back', 'membership_benefits_api'),
    *(field.name for field in dataclasses.fields(Report)),
}


# files that a site has
OF_SITES = {'config.toml'}


def examples(language: str) -> list[str]:
    """Return the code blocks of a language that call the service."""
    return [block for block in blocks(language) if BASE in block]


def of_ours(api: ApiProcess, *command: str) -> str:
    """Run a command, sent to the test's service; returns what it prints."""
    return run(*[word.replace(BASE, api.url) for word in command])


def begins(command: str, known: dict[str, str]) -> list[str]:
    return [beginning for beginning in known if command.startswith(beginning)]


def assert_there_is_such_a_test(place: str) -> None:
    path, name = place.split('::')
    assert f'\ndef {name}(' in (ROOT / 'tests' / path).read_text(), place


def test_every_command_is_run_by_a_test_or_there_is_a_reason() -> None:
    used = set()
    for command in commands():
        of_dba = [] if command not in commands(DBA_README) else ['test_dba_readme.py']
        found = begins(command, NOT_RUN) or of_dba or begins(command, RUN_BY)
        assert len(found) == 1, (command, found)
        used.update(found)
    assert used >= RUN_BY.keys() | NOT_RUN.keys()
    for place in RUN_BY.values():
        assert_there_is_such_a_test(place)


def test_every_table_is_compared_with_the_code_or_there_is_a_reason() -> None:
    assert set(tables()) == COMPARED_BY.keys() | NOT_COMPARED.keys()
    for place in COMPARED_BY.values():
        assert_there_is_such_a_test(place)


def test_every_block_of_code_is_of_a_language_that_is_tested() -> None:
    languages = {'sh', 'python', 'js', 'sql', 'psql'}
    for text in PAGES.values():
        assert set(re.findall(r'^```(\w+)$', text, re.MULTILINE)) <= languages


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


@pytest.mark.parametrize('path', DOCS, ids=lambda path: path.name)
def test_page_begins_with_whom_it_is_for(path: Path) -> None:
    assert re.match(r'# [\w ]+\n\nFor who ', PAGES[path])


def test_layout_names_what_is_there() -> None:
    [layout] = [block for block in blocks('', README) if block.startswith('api/ ')]
    folder = ''
    for line in layout.splitlines():
        name = line.split()[0]
        folder = folder if line.startswith(' ') else name
        path = ROOT / (folder + name if line.startswith(' ') else name)
        assert path.is_dir(), path
        for file in re.findall(r'[\w.]+\.(?:py|json)', line):
            assert (path / file).exists(), file


def test_every_setting_that_is_named_exists_and_has_the_default_that_is_told() -> None:
    defaults = {f.name: f.default for f in fields(Settings)}
    metrics = {names(name)[0] for name, *_ in tables()['name']}
    functions = {path.stem for path in FOLDER.glob('*.sql')}
    known = defaults.keys() | metrics | functions | OF_OTHERS | OTHER_NAMES
    told = 0
    for text in PAGES.values():
        prose = re.sub(r'^```.*?^```$', '', text, flags=re.MULTILINE | re.DOTALL)
        named = {
            word for span in names(prose) for word in re.findall(r'^[a-z]+(?:_[a-z0-9]+)+', span)
        }
        # test_operating.py looks for the tests that a page names
        assert {name for name in named if not name.startswith('test_')} <= known
        for name, value in re.findall(r'`(\w+)` \((\d[\d,]*)\)', prose):
            assert int(value.replace(',', '')) == defaults[name], name
            told += 1
    assert told >= 3


def test_every_variable_that_is_named_exists() -> None:
    known = {places(f.name, '')[1] for f in fields(Settings)} | {'API_CONFIG', 'API_'}
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


def test_table_of_packages_is_what_is_installed() -> None:
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    told = [name for row in tables()['package'] for name in row[0].split(', ')]
    assert told == [dependency.partition('[')[0] for dependency in project['dependencies']]


def answers_in_the_readme() -> list[tuple[str, str]]:
    """Return the URLs and answers that README shows."""
    return re.findall(r"^curl '(.+?)'\n```\n\n```\n(.+)\n```$", PAGES[README], re.MULTILINE)


def test_readme_shows_an_answer_of_all_reports() -> None:
    paths = [report.path for report in REPORTS]
    shows_all = len(answers_in_the_readme()) == len(paths)
    assert shows_all, f'README.md shows no request and answer for some of {paths}'


def test_answers_in_the_readme_are_those_of_the_sample_data(api: ApiProcess) -> None:
    def plain(text: str) -> str:
        # white space is PostgreSQL's, and the sample data is relative to now
        return re.sub(r'"\d{4}-\d\d-\d\dT[^"]+"', '"time"', re.sub(r'\s', '', text))

    for url, answer in answers_in_the_readme():
        whole = plain(api.get(url.removeprefix(BASE)).text)
        pieces = [piece.strip('[],') for piece in plain(answer).split('...')]
        assert len(pieces) > 1
        for piece in pieces:
            assert piece in whole


def test_there_is_an_example_of_each_report_in_each_language() -> None:
    for language in ('sh', 'python', 'js'):
        text = '\n'.join(examples(language))
        for report in ('top-benefits', 'available-benefits', 'inactivity-periods'):
            assert report in text, (language, report)


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


def test_every_module_and_file_that_is_named_exists() -> None:
    listed = run('git', '-C', str(ROOT), 'ls-files').split()
    known = {*listed, *(Path(name).name for name in listed)}
    for path, text in PAGES.items():
        for span in names(re.sub(r'^```.*?^```$', '', text, flags=re.MULTILINE | re.DOTALL)):
            for module in re.findall(r'python -m ([\w.]+)', span):
                place = ROOT / module.replace('.', '/')
                assert place.is_dir() or place.with_suffix('.py').exists(), (path, span)
            if re.fullmatch(r'\w[\w./-]*\.(?:py|sql|toml|json|conf|service|sh)', span):
                assert span in known or span in OF_SITES, (path, span)


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'^([a-z-]+):', makefile, re.MULTILINE))
    changelog = (ROOT / 'CHANGELOG.md').read_text()
    named = set()
    for text in [*PAGES.values(), changelog]:
        named |= set(re.findall(r'(?:^|`|bin )make ([a-z-]+)', text, re.MULTILINE))
    assert {'run', 'dev', 'explain', 'pgbench', 'test', 'token'} <= named <= targets


def test_every_option_that_is_named_exists() -> None:
    shown = subprocess.run(
        [sys.executable, '-m', 'api', '--help'],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    named = set(re.findall(r'python -m api (--[\w-]+)', '\n'.join(PAGES.values())))
    assert named == {'--check', '--token'}
    assert all(option in shown for option in named)

"""Clients that generators make of the contract have the types that a person would write, and work.

The tools for JavaScript are those of `package-lock.json`, installed beside it when a test needs
them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from api import OPENAPI
from tests.pages import BASE, command
from tests.support.commands import clean_environment
from tests.support.machine import missing, system_program
from tests.support.service import ApiProcess

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parent
TOOLS = FOLDER / 'node_modules'
# the members that the programs read; if one is misspelt, a type checker must report one error
MEMBERS = re.compile(r'\.(usage_?count|title|recurrence|parameter|detail)\b', re.IGNORECASE)


def run_in(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.prefix, 'bin')), os.environ.get('PATH', os.defpath)])
    return subprocess.run(
        command,
        cwd=folder,
        env=clean_environment() | {'PATH': path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def succeed_in(folder: Path, *command: str | Path) -> str:
    finished = run_in(folder, *command)
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


def program_of(name: str, api: ApiProcess) -> str:
    return (FOLDER / name).read_text().replace(BASE, api.url)


def misspelt(program: str) -> str:
    changed, count = MEMBERS.subn(r'.\1_', program)
    assert count == 5
    return changed


@pytest.fixture(scope='module')
def tools() -> Path:
    """Return the folder of the packages in package-lock.json; installs them if necessary."""
    npm = system_program('npm', 'npm')
    system_program('node', 'nodejs')
    # npm writes it last
    installed = TOOLS / '.package-lock.json'
    lock = FOLDER / 'package-lock.json'
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        installing = run_in(FOLDER, npm, 'ci', '--ignore-scripts', '--no-audit', '--no-fund')
        if installing.returncode:
            missing(f'npm reaches no registry: {installing.stdout}')
    return TOOLS


@pytest.fixture
def project(tools: Path, tmp_path: Path) -> Path:
    """Return the folder of a TypeScript project, in which the tools are installed."""
    for name in ('package.json', 'tsconfig.json', 'node_modules'):
        (tmp_path / name).symlink_to(FOLDER / name)
    return tmp_path


def check_output(api: ApiProcess, output: str) -> None:
    [venue, *_] = api.get('/venues/top-benefits').json()
    for benefit in venue['topBenefits180Days']:
        assert str(benefit['usageCount']) in output
    for benefit in api.get('/venues/1/available-benefits?personId=1').json():
        assert benefit['title'] in output
    assert output.endswith('venueId There is no venueId 99.\n')


def test_python(api: ApiProcess, tmp_path: Path) -> None:
    succeed_in(tmp_path, *command('openapi-python-client ').replace(BASE, api.url).split())
    program = program_of('openapi_python_client.py', api)
    (tmp_path / 'program.py').write_text(program)
    (tmp_path / 'misspelt.py').write_text(misspelt(program))
    # errors in the generated code itself do not count
    how = ['--strict', '--disallow-any-expr', '--follow-imports=silent', '--no-pretty']
    checked = run_in(tmp_path, 'mypy', *how, 'program.py', 'misspelt.py').stdout
    assert len(re.findall(r'^misspelt.py:.*\[attr-defined\]$', checked, re.MULTILINE)) == 5, checked
    assert 'program.py' not in checked
    check_output(api, succeed_in(tmp_path, sys.executable, 'program.py'))


@pytest.mark.parametrize('name', ['openapi_fetch.ts', 'hey_api.ts'])
def test_typescript(api: ApiProcess, project: Path, name: str) -> None:
    generate = command('npx openapi-typescript ').replace(BASE, api.url)
    if name == 'hey_api.ts':
        generate = f'npx openapi-ts --input {api.url}/openapi.json --output client'
    succeed_in(project, *generate.split())
    program = program_of(name, api)
    (project / 'program.ts').write_text(program)
    (project / 'misspelt.ts').write_text(misspelt(program))
    checked = run_in(project, 'npx', 'tsc').stdout
    # there is no such property, and the same with a suggestion
    errors = re.findall(r'^misspelt\.ts\(.*: error TS(?:2339|2551): ', checked, re.MULTILINE)
    assert len(errors) == 5, checked
    assert all(line.startswith('misspelt.ts') for line in checked.splitlines()), checked
    check_output(api, succeed_in(project, 'node', 'built/program.js'))


def test_redocly_finds_nothing(tools: Path) -> None:
    assert succeed_in(FOLDER, 'node', 'lint.js', OPENAPI) == ''


def test_spectral_finds_nothing(tools: Path) -> None:
    how = ['--ruleset', 'spectral.yaml', '--fail-severity', 'hint']
    assert 'No results' in succeed_in(FOLDER, 'npx', 'spectral', 'lint', *how, OPENAPI)

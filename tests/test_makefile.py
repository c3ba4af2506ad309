"""The Makefile's own work: its virtual environments, and what it calls to make a token."""

import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.pages import command
from tests.support.commands import clean_environment
from tests.support.project import ROOT


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ['make', f'PYTHON={sys.executable}', *arguments],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with the Makefile, in which nothing needs to be installed."""
    folder = tmp_path / 'project'
    folder.mkdir()
    shutil.copy(ROOT / 'Makefile', folder)
    for name in ('api', 'db', 'tests', 'tools', 'requirements'):
        (folder / name).mkdir()
    for name in ('dev', 'postgres', 'bench'):
        (folder / 'requirements' / f'{name}.txt').touch()
    return folder


def environment_of_somebody_else(folder: Path) -> Path:
    """Make what could be an environment; returns a file in it."""
    (folder / 'bin').mkdir(parents=True)
    shutil.copy('/bin/true', folder / 'bin' / 'python')
    (folder / 'theirs').write_text('theirs')
    return folder / 'theirs'


@pytest.mark.parametrize('target', ['install', 'run', 'token', 'test', 'lint'])
def test_environment_of_somebody_else_is_not_cleared(project: Path, target: str) -> None:
    theirs = environment_of_somebody_else(project / '.venv')
    refused = make(project, target)
    assert refused.returncode != 0
    # make adds where it stopped
    assert refused.stderr.startswith('make: *** ')
    assert refused.stdout == (
        'error: make did not make .venv, and does not clear it:'
        ' move it away, or clone the project elsewhere\n'
    )
    assert [path.name for path in sorted((project / '.venv').iterdir())] == ['bin', 'theirs']
    assert theirs.read_text() == 'theirs'


def test_environment_for_comparing_is_not_cleared_either(project: Path) -> None:
    theirs = environment_of_somebody_else(project / '.venv-bench')
    refused = make(project, '-o', '.venv/installed', 'bench')
    assert refused.returncode != 0
    assert 'error: make did not make .venv-bench' in refused.stdout
    assert theirs.exists()


@pytest.mark.parametrize('marker', ['installed', 'unfinished', 'theirs'])
def test_link_to_an_environment_is_not_followed(project: Path, marker: str) -> None:
    theirs = environment_of_somebody_else(project.parent / 'elsewhere')
    # even one that make made in another project
    (theirs.parent / marker).touch()
    os.utime(theirs.parent / marker, (0, 0))
    (project / '.venv').symlink_to(theirs.parent)
    for target in ('install', 'clean'):
        assert 'make did not make .venv' in make(project, target).stdout
        assert theirs.read_text() == 'theirs'
        assert (project / '.venv').is_symlink()


def test_clean_removes_what_make_made_and_nothing_else(project: Path) -> None:
    theirs = environment_of_somebody_else(project / '.venv')
    environment_of_somebody_else(project / '.venv-bench').rename(
        project / '.venv-bench' / 'installed'
    )
    (project / 'api' / '__pycache__').mkdir()
    cleaned = make(project, 'clean')
    assert cleaned.returncode == 0, cleaned.stderr
    assert 'make did not make .venv: it stays' in cleaned.stdout
    assert theirs.exists()
    assert not (project / '.venv-bench').exists()
    assert not (project / 'api' / '__pycache__').exists()


@pytest.mark.slow
def test_own_environment_is_made_anew_for_new_packages_and_after_an_interruption(
    project: Path,
) -> None:
    installed, unfinished = (project / '.venv' / name for name in ('installed', 'unfinished'))
    old = project / '.venv' / 'old'
    (project / '.venv').mkdir()
    unfinished.touch()
    old.touch()

    def install() -> None:
        made = make(project, 'install')
        assert made.returncode == 0, made.stderr
        assert installed.exists()
        assert not unfinished.exists()

    install()
    assert not old.exists()
    assert (project / '.venv' / 'bin' / 'python').exists()
    old.touch()
    install()
    assert old.exists()
    os.utime(installed, (0, 0))
    install()
    assert not old.exists()


@pytest.mark.slow
def test_install_that_fails_is_begun_anew(project: Path) -> None:
    (project / 'requirements' / 'dev.txt').write_text('./nowhere\n')
    assert make(project, 'install').returncode != 0
    assert not (project / '.venv' / 'installed').exists()
    (project / 'requirements' / 'dev.txt').write_text('')
    assert make(project, 'install').returncode == 0


def test_make_token() -> None:
    words = command('make token').split()
    assert words[0] == 'make'
    bin_ = Path(sys.executable).parent
    made = [make(ROOT, '-o', '.venv/installed', f'BIN={bin_}', *words[1:]).stdout for _ in range(2)]
    assert made[0] != made[1]
    for printed in made:
        [(token, hash_)] = re.findall(r'\Atoken: (\S{43})\ntoken_sha256: (\S+)\n\Z', printed)
        assert sha256(token.encode()).hexdigest() == hash_

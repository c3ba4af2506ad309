"""The virtual environments of the Makefile, and `make token`."""

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
    """Create a folder like a virtual environment; returns a file in it."""
    (folder / 'bin').mkdir(parents=True)
    shutil.copy('/bin/true', folder / 'bin' / 'python')
    (folder / 'theirs').write_text('theirs')
    return folder / 'theirs'


@pytest.mark.parametrize(
    ('folder', 'words'),
    [
        ('.venv', ['install']),
        ('.venv', ['run']),
        ('.venv-bench', ['-o', '.venv/installed', 'bench']),
    ],
)
def test_environment_of_somebody_else_is_not_cleared(
    project: Path, folder: str, words: list[str]
) -> None:
    theirs = environment_of_somebody_else(project / folder)
    refused = make(project, *words)
    assert refused.returncode != 0
    # make itself adds a message
    assert refused.stderr.startswith('make: *** ')
    assert refused.stdout == (
        f'error: {folder} was not created by make: move it, or use another clone\n'
    )
    assert theirs.read_text() == 'theirs'


@pytest.mark.parametrize('marker', ['installed', 'theirs'])
def test_link_to_an_environment_is_not_followed(project: Path, marker: str) -> None:
    theirs = environment_of_somebody_else(project.parent / 'elsewhere')
    # even if make created it in another project
    (theirs.parent / marker).touch()
    os.utime(theirs.parent / marker, (0, 0))
    (project / '.venv').symlink_to(theirs.parent)
    for target in ('install', 'clean'):
        assert '.venv was not created by make' in make(project, target).stdout
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
    assert '.venv was not created by make; not removed' in cleaned.stdout
    assert theirs.exists()
    assert not (project / '.venv-bench').exists()
    assert not (project / 'api' / '__pycache__').exists()


@pytest.mark.slow
def test_own_environment_is_made_anew_for_new_packages_and_after_a_failure(
    project: Path,
) -> None:
    installed, old = (project / '.venv' / name for name in ('installed', 'old'))
    locked = project / 'requirements' / 'dev.txt'
    locked.write_text('./nowhere\n')
    assert make(project, 'install').returncode != 0
    assert not installed.exists()
    locked.write_text('')
    old.touch()
    assert make(project, 'install').returncode == 0
    assert installed.exists()
    assert not old.exists()
    old.touch()
    assert make(project, 'install').returncode == 0
    assert old.exists()
    os.utime(installed, (0, 0))
    assert make(project, 'install').returncode == 0
    assert not old.exists()


def test_make_token() -> None:
    words = command('make token').split()
    assert words[0] == 'make'
    made = [make(ROOT, *words[1:]).stdout for _ in range(2)]
    assert made[0] != made[1]
    for printed in made:
        [(token, hash_)] = re.findall(r'\Atoken: (\S{43})\ntoken_sha256: (\S+)\n\Z', printed)
        assert sha256(token.encode()).hexdigest() == hash_

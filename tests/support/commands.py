"""Run commands, in an environment that configures nothing."""

import os
import subprocess
import sys

from tests.support.project import ROOT
from tests.support.waiting import DEADLINE_S


def clean_environment() -> dict[str, str]:
    """Return this process's environment without anything that configures the service."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(('API_', 'PG', 'MAKE', 'MFLAGS', 'GUNICORN_', 'DATABASE_URL'))
    } | {'API_CONFIG': os.devnull}  # and not the config.toml of who develops


def patient_environment() -> dict[str, str]:
    """Return a clean environment in which the service waits for a database that is slow.

    Its own limits are shorter than some pauses of a loaded machine. A test of one sets it.
    """
    patience = str(DEADLINE_S // 2)  # an answer still comes before its client leaves
    limits = ('POOL', 'STATEMENT')
    return clean_environment() | {f'API_{limit}_TIMEOUT_S': patience for limit in limits}


def run(*command: str) -> str:
    """Run a command that succeeds; returns what it prints."""
    finished = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def run_api(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -m api` until it ends."""
    return subprocess.run(
        [sys.executable, '-m', 'api', *arguments],
        cwd=ROOT,
        env=patient_environment() | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def run_check(url: str, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -m api --check`."""
    return run_api('--check', DATABASE_URL=url, **environment)


def reason(checked: subprocess.CompletedProcess) -> str:
    """Return the only line of a check that failed."""
    assert checked.returncode == 1
    [line] = checked.stderr.splitlines()
    return line

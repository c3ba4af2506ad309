"""Runs commands in an environment without settings of the service."""

import os
import subprocess
import sys

from tests.support.project import ROOT
from tests.support.waiting import DEADLINE_S


def clean_environment() -> dict[str, str]:
    """Return the environment of this process without the variables that configure the service."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(('API_', 'PG', 'MAKE', 'MFLAGS', 'GUNICORN_', 'DATABASE_URL'))
    } | {'API_CONFIG': os.devnull}  # ignore a developer's config.toml


def patient_environment() -> dict[str, str]:
    """Return a clean environment with long timeouts for the database.

    The default timeouts are shorter than some pauses of a busy machine. The test of a timeout sets
    that timeout.
    """
    timeout = str(DEADLINE_S // 2)  # shorter than the client's timeout
    return clean_environment() | {
        'API_POOL_TIMEOUT_S': timeout,
        'API_STATEMENT_TIMEOUT_S': timeout,
    }


def run(*command: str) -> str:
    """Run a command, which must succeed; returns its output."""
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
    """Return the line that a failed check printed."""
    assert checked.returncode == 1
    [line] = checked.stderr.splitlines()
    return line

"""The README's examples do what it says."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT, ApiProcess

README = (ROOT / 'README.md').read_text()
BASE = 'http://127.0.0.1:8000'


def examples(language: str) -> list[str]:
    """Return the README's code blocks of a language that call the service."""
    blocks = re.findall(rf'^```{language}\n(.*?)^```$', README, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if BASE in block]


def run(api: ApiProcess, *command: str) -> str:
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ)
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_there_is_an_example_of_each_report_in_each_language() -> None:
    for language in ('sh', 'python', 'js'):
        text = '\n'.join(examples(language))
        for report in ('top-benefits', 'available-benefits', 'inactivity-periods'):
            assert report in text, (language, report)


@pytest.mark.parametrize('block', examples('sh'))
def test_curl_examples(api: ApiProcess, block: str) -> None:
    if not shutil.which('curl'):
        pytest.skip('there is no curl on this machine')
    for line in block.replace('\\\n', ' ').splitlines():
        printed = run(api, 'sh', '-c', line.replace(BASE, api.url))
        assert 'venueId' in printed or 'benefitId' in printed or 'HTTP/1.1 304' in printed


@pytest.mark.parametrize('block', examples('python'))
def test_python_examples(api: ApiProcess, block: str) -> None:
    assert run(api, sys.executable, '-W', 'error', '-c', block.replace(BASE, api.url))


@pytest.mark.parametrize('block', examples('js'))
def test_javascript_examples(api: ApiProcess, block: str) -> None:
    if not (node := shutil.which('node')):
        pytest.skip('there is no node on this machine')
    script = block.replace(BASE, api.url)
    assert run(api, node, '--input-type=module', '--eval', script)


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'^([a-z-]+):', makefile, re.MULTILINE))
    for path in ('README.md', 'CHANGELOG.md', 'db/README.md'):
        text = (ROOT / path).read_text()
        named = re.findall(r'(?:^|`|bin )make ([a-z-]+)', text, re.MULTILINE)
        assert set(named) <= targets

"""`make mutants`: make small mistakes one at a time, and show those that no test notices.

cosmic-ray changes the Python. No tool changes SQL, so patterns do that here. Each mistake is made
in a copy of the project of its own, where the tests of its folder run.
"""

import argparse
import difflib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parent.parent
# the tests of each folder; those that detect the most mutants come first
TESTS = {
    'db/functions': [
        'tests/functions/test_{stem}.py',
        *('tests/functions/test_plain_forms.py', 'tests/functions/test_wide_data.py'),
        *('tests/functions/test_plans.py', 'tests/functions/test_partitioned.py'),
        *('-k', 'not foreign_servers and not citus'),
    ],
    'api/http': ['tests/http', 'tests/database/test_query_files.py', 'tests/test_own_files.py'],
    'api/database': [
        *('tests/database', 'tests/test_prepared_statements.py', 'tests/http/test_reports.py'),
        *('tests/http/test_tracing.py', 'tests/http/test_readiness.py'),
        'tests/telemetry/test_metrics.py',
        *('tests/faults', '-k', 'not soak and not nginx'),
    ],
}
# replacements in SQL, by pattern
EDITS = {
    r'(?<![<>])<=': '<',
    r'(?<=\s)<(?=\s)': '<=',
    r'>=': '>',
    r'(?<=\s)>(?=\s)': '>=',
    r'(?<=\s)=(?=\s)': '<>',
    r'\bis null\b': 'is not null',
    r'(?<![\w.])\d+(?![\w.])': lambda number: str(int(number[0]) + 1).zfill(len(number[0])),
    r'\basc\b': 'desc',
    r'\bdesc\b': 'asc',
    r'\border by [\w.]+(?=\s*\))': r'\g<0> desc',
    r'\bmin\(': 'max(',
    r'\bmax\(': 'min(',
    r'\bgreatest\(': 'least(',
    r'\bcoalesce\(': 'nullif(',
    r'\bnot exists\b': 'exists',
}
# operators of cosmic-ray whose mutants every test detects (a string to the power of another) or no
# test can detect (`is` for small numbers), and one that fails for exceptions with a dot
LEFT_OUT = re.compile(
    r'NoOp|Variable|ExceptionReplacer|ReplaceBinaryOperator_(?!Add_Sub|Sub_Add|Mul_FloorDiv)'
    r'|ReplaceComparisonOperator_(?!Is_IsNot|IsNot_Is)\w+_Is(Not)?$'
)


class Mutant(NamedTuple):
    """A file of the project with one mistake in its text."""

    path: Path
    text: str

    def diff(self) -> str:
        """Return the name of the file and the changed lines."""
        before = self.path.read_text().splitlines()
        _, _, *lines = difflib.unified_diff(before, self.text.splitlines(), lineterm='', n=0)
        return '\n'.join([str(self.path.relative_to(ROOT)), *lines])


def mutants_of_sql(text: str) -> Iterator[str]:
    """Yield a SQL file's text with one mistake each, outside of comments."""
    comments = [found.span() for found in re.finditer('--.*', text)]
    for pattern, replacement in EDITS.items():
        for found in re.finditer(pattern, text):
            if not any(begin <= found.start() < end for begin, end in comments):
                word = replacement(found) if callable(replacement) else found.expand(replacement)
                yield text[: found.start()] + word + text[found.end() :]


def mutants_of_python(text: str) -> Iterator[str]:
    """Yield a module's text with one mistake each."""
    for name in sorted(name for name in operator_names() if not LEFT_OUT.search(name)):
        operator, number = get_operator(name)(), 0
        while (mutated := mutate_code(text, operator, number)) is not None:
            yield mutated
            number += 1


def mutants(folder: str) -> list[Mutant]:
    """Return the mutants of all files of a folder."""
    make = {'.sql': mutants_of_sql, '.py': mutants_of_python}
    paths = [path for path in sorted((ROOT / folder).iterdir()) if path.suffix in make]
    return [Mutant(path, text) for path in paths for text in make[path.suffix](path.read_text())]


def is_noticed(mutant: Mutant, tests: list[str]) -> bool:
    """Return whether tests fail in a copy of the project with a mutant."""
    with tempfile.TemporaryDirectory(prefix='mutants-') as temporary:
        Path(temporary).chmod(0o755)  # the user of PostgreSQL must be able to read it
        copy = Path(temporary, 'copy')
        left_out = shutil.ignore_patterns('.*', '__pycache__', 'node_modules')
        shutil.copytree(ROOT, copy, ignore=left_out)
        (copy / mutant.path.relative_to(ROOT)).write_text(mutant.text)
        words = [word.format(stem=mutant.path.stem) for word in tests]
        options = ['-p', 'pytest_timeout', '--timeout', '120', '-x']
        finished = subprocess.run(
            [f'{ROOT}/.venv/bin/python', '-m', 'pytest', *options, *words],
            cwd=copy,
            # other plugins take longer to load than most tests
            env=os.environ | {'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1'},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        return finished.returncode != 0


def main() -> None:
    """Test a sample of the mutants of each folder; print those that no test detects."""
    parser = argparse.ArgumentParser(prog='python -m tests.mutants', description=main.__doc__)
    parser.add_argument('--count', type=int, default=40, help='how many of each folder')
    parser.add_argument('--seed', type=int, default=1, help='which of them')
    parser.add_argument('--folders', nargs='+', choices=TESTS, default=list(TESTS))
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    for folder in arguments.folders:
        found = mutants(folder)
        chosen = chance.sample(found, min(arguments.count, len(found)))
        attempt = partial(is_noticed, tests=TESTS[folder])
        if attempt(chosen[0]._replace(text=chosen[0].path.read_text())):
            sys.exit(f'error: the tests of {folder} fail without a mistake')
        survivors = 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for mutant, noticed in zip(chosen, pool.map(attempt, chosen), strict=True):
                if not noticed:
                    survivors += 1
                    print(mutant.diff(), flush=True)
        print(f'{folder}: {len(chosen) - survivors} of {len(chosen)} noticed, {len(found)} exist')


if __name__ == '__main__':
    main()

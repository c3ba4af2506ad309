"""Whether the tests notice small mistakes, which `make mutants` makes one at a time.

A mutant is one small change in a SQL file, or in a module of api/http or api/database. Those of
Python are cosmic-ray's; those of SQL are found here: every comparison, number, order, minimum,
maximum and coalesce outside of comments. Each is tried in a copy of the project, with the tests
that are about such a file. A sample of the mutants is tried, chosen by a seed.
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
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
# seconds after which tests that do not end have noticed
LIMIT_S = 900
# where the tests are that are about what is in a folder, those first that notice most
TESTS = {
    'db/functions': [
        'tests/functions/test_{stem}.py',
        'tests/functions/test_plain_forms.py',
        'tests/functions/test_wide_data.py',
        'tests/functions/test_plans.py',
        'tests/functions/test_partitioned.py',
        *('-k', 'not foreign_servers and not citus'),
    ],
    'api/http': ['tests/http', 'tests/database/test_query_files.py', 'tests/test_own_files.py'],
    'api/database': [
        'tests/database',
        'tests/test_prepared_statements.py',
        'tests/http/test_reports.py',
        'tests/http/test_tracing.py',
        'tests/telemetry/test_metrics.py',
        'tests/faults/test_overload.py',
        'tests/faults/test_database_restart.py',
        'tests/faults/test_tls.py',
        'tests/faults/test_replicas.py',
        'tests/faults/test_pgbouncer.py',
    ],
}
# what is written instead of what, in SQL: a word of a pattern, and its replacement
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
# of cosmic-ray's operators, those that are of no use here: nonsense that every test notices, such
# as a string to the power of another, or no one, as whether small numbers are identical, and what
# does not know exceptions with a dot in their names
LEFT_OUT = re.compile(
    r'NoOp|Variable|ExceptionReplacer|ReplaceBinaryOperator_(?!Add_Sub|Sub_Add|Mul_FloorDiv)'
    r'|ReplaceComparisonOperator_(?!Is_IsNot|IsNot_Is)\w+_Is(Not)?$'
)


class Mutant(NamedTuple):
    """A file of the project, and what is written in it instead."""

    path: Path
    text: str

    def diff(self) -> str:
        """Return what is changed."""
        before = (ROOT / self.path).read_text().splitlines()
        lines = difflib.unified_diff(before, self.text.splitlines(), lineterm='', n=0)
        name = [str(self.path)]
        return '\n'.join(name + [line for line in lines if not line.startswith(('---', '+++'))])


def mutants_of_sql(path: Path) -> Iterator[Mutant]:
    """Find the mutants of a SQL file."""
    text = (ROOT / path).read_text()
    comments = [found.span() for found in re.finditer('--.*', text)]
    for pattern, replacement in EDITS.items():
        for found in re.finditer(pattern, text):
            if not any(begin <= found.start() < end for begin, end in comments):
                word = replacement(found) if callable(replacement) else found.expand(replacement)
                yield Mutant(path, text[: found.start()] + word + text[found.end() :])


def mutants_of_python(path: Path) -> Iterator[Mutant]:
    """Find the mutants of a module."""
    text = (ROOT / path).read_text()
    for name in sorted(operator_names()):
        if LEFT_OUT.search(name):
            continue
        operator, number = get_operator(name)(), 0
        while (mutated := mutate_code(text, operator, number)) is not None:
            yield Mutant(path, mutated)
            number += 1


def mutants(folder: str) -> list[Mutant]:
    """Find the mutants of all files of a folder."""
    found = []
    for path in sorted((ROOT / folder).iterdir()):
        make = {'.sql': mutants_of_sql, '.py': mutants_of_python}.get(path.suffix)
        found += make(path.relative_to(ROOT)) if make else []
    return found


def copy(folder: Path) -> None:
    """Copy what the tests need into a folder: the project's files, and its environment."""
    command = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(lambda name: (ROOT / name).exists(), listed.stdout.split('\0')[:-1]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(ROOT / '.venv', folder / '.venv', symlinks=True)


def places(tests: list[str], path: Path) -> tuple[str, ...]:
    """Return the words that choose the tests of a file."""
    return tuple(place.format(stem=path.stem) for place in tests)


def is_noticed(mutant: Mutant, folder: Path, tests: list[str]) -> bool:
    """Tell whether tests fail in a copy with a mutant."""
    path = folder / mutant.path
    before = path.read_bytes()
    path.write_text(mutant.text)
    command = ['.venv/bin/python', '-m', 'pytest', '-x', '-q', '--timeout', '120']
    environment = {**os.environ, 'PYTHONDONTWRITEBYTECODE': '1'}
    try:
        finished = subprocess.run(
            [*command, '-p', 'no:cacheprovider', *places(tests, mutant.path)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT_S,
            check=False,
        )
        return finished.returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_bytes(before)


def main() -> int:
    """Try a sample of the mutants of each folder; returns 1 where tests fail without any."""
    parser = argparse.ArgumentParser(description='Make small mistakes, and see who notices.')
    parser.add_argument('--count', type=int, default=40, help='how many of each folder')
    parser.add_argument('--seed', type=int, default=1, help='which of them')
    parser.add_argument('--folders', nargs='+', choices=TESTS, default=list(TESTS))
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    workers = os.cpu_count() or 1
    copies: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix='mutants-') as temporary:
        Path(temporary).chmod(0o755)  # PostgreSQL's user reads there
        for number in range(workers):
            place = Path(temporary, str(number))
            copy(place)
            copies.put(place)

        def attempt(mutant: Mutant, tests: list[str]) -> bool:
            place = copies.get()
            try:
                return is_noticed(mutant, place, tests)
            finally:
                copies.put(place)

        for folder in arguments.folders:
            tests, found = TESTS[folder], mutants(folder)
            chosen = chance.sample(found, min(arguments.count, len(found)))
            # one for each set of tests
            paths = {places(tests, mutant.path): mutant.path for mutant in chosen}.values()
            unchanged = [Mutant(path, (ROOT / path).read_text()) for path in paths]
            with ThreadPoolExecutor(workers) as pool:
                if any(pool.map(lambda mutant, tests=tests: attempt(mutant, tests), unchanged)):
                    print(f'error: the tests of {folder} fail as it is', file=sys.stderr)
                    return 1
                tried = pool.map(lambda mutant, tests=tests: attempt(mutant, tests), chosen)
                noticed = list(tqdm(tried, desc=folder, total=len(chosen), unit=' mutants'))
            print(
                f'{folder}: {sum(noticed)} of {len(chosen)} noticed, of {len(found)} that there are'
            )
            for mutant, was_noticed in zip(chosen, noticed, strict=True):
                if not was_noticed:
                    print(mutant.diff())
    return 0


if __name__ == '__main__':
    sys.exit(main())

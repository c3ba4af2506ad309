"""What was measured: raw figures in one JSON file, of which tables and pictures are made.

Needs nothing but Python, since `.venv-bench` draws the pictures.
"""

import json
from pathlib import Path
from statistics import median

FILE = 'bench.json'

OURS = 'ours'
OURS_QUIET = 'ours, quiet'
OURS_UNCOUNTED = 'ours, no metrics'
FASTAPI = 'FastAPI'
FASTAPI_QUIET = 'FastAPI, quiet'
GRANIAN = 'granian'
GUNICORN = 'gunicorn'
PGBENCH = 'pgbench'

AVAILABLE = 'available_benefits'
INACTIVITY = 'inactivity_periods'
TOP = 'top_benefits'


class Results:
    """The figures of each part of the bench, kept in a file from the moment they are known.

    Args:
        folder: Where the file is; what it has of other runs stays until it is measured anew.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._parts = json.loads(self._file.read_text()) if self._file.exists() else {}

    def begin(self, part: str, run: dict) -> None:
        """Forget what a part had found before.

        Args:
            part: The part's name.
            run: When, where and with which sizes and versions it is measured now.
        """
        self._parts[part] = {'run': run, 'records': []}

    def add(self, part: str, record: dict) -> None:
        """Keep what a part that has begun found; the file is whole at any time."""
        self._parts[part]['records'].append(record)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix('.unfinished')
        unfinished.write_text(self._text())
        unfinished.replace(self._file)

    def _text(self) -> str:
        """Return JSON with a line for each record."""
        parts = [
            f'"{name}": {{"run": {json.dumps(part["run"])}, "records": [\n'
            + ',\n'.join(json.dumps(record) for record in part['records'])
            + '\n]}'
            for name, part in self._parts.items()
        ]
        return '{\n' + ',\n'.join(parts) + '\n}\n'

    def runs(self) -> dict[str, dict]:
        """Return when, where and with what each part was measured, by its name."""
        return {name: part['run'] for name, part in self._parts.items()}

    def records(self, *parts: str, **key: object) -> list[dict]:
        """Return the records of some parts that have all members of a key."""
        return [
            record
            for part in parts
            for record in self._parts.get(part, {}).get('records', [])
            if key.items() <= record.items()
        ]


def ratio(these: list[float], those: list[float]) -> float:
    """Return the median of the rounds' ratios.

    The two of a round ran next to each other, so what the machine did besides weighed on both.
    """
    return median(this / that for this, that in zip(these, those, strict=True))

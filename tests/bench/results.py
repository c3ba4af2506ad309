"""The measured figures, in one JSON file from which the tables and pictures are made.

It needs only the standard library, because `.venv-bench` draws the pictures.
"""

import json
from pathlib import Path
from statistics import median

FILE = 'bench.json'

OURS = 'this service'
FASTAPI = 'FastAPI'
GRANIAN = 'granian'
GTHREAD = 'gunicorn gthread'
WAITRESS = 'stock waitress'
OURS_ALONE = 'this service, one worker'
FASTAPI_ALONE = 'FastAPI, one worker'
SERVERS = (OURS, FASTAPI, GRANIAN, GTHREAD, WAITRESS, OURS_ALONE, FASTAPI_ALONE)

AVAILABLE = 'available_benefits'
INACTIVITY = 'inactivity_periods'
TOP = 'top_benefits'
REPORTS = (TOP, AVAILABLE, INACTIVITY)


class Results:
    """The figures of every part of the benchmark.

    Args:
        folder: The folder of the file. Parts that are not measured again keep their figures.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._parts = json.loads(self._file.read_text()) if self._file.exists() else {}

    def replace(self, part: str, run: dict, records: list[dict]) -> None:
        """Write the figures of a part to the file, in place of its earlier ones."""
        self._parts = dict(sorted({**self._parts, part: {'run': run, 'records': records}}.items()))
        parts = [
            f'"{name}": {{"run": {json.dumps(found["run"])}, "records": [\n'
            + ',\n'.join(json.dumps(record) for record in found['records'])
            + '\n]}'
            for name, found in self._parts.items()
        ]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text('{\n' + ',\n'.join(parts) + '\n}\n')

    def runs(self) -> dict[str, dict]:
        """Return the `run` of every part, by the part's name."""
        return {name: part['run'] for name, part in self._parts.items()}

    def records(self, part: str, **key: object) -> list[dict]:
        """Return the records of a part whose members equal those of `key`."""
        records = self._parts.get(part, {}).get('records', [])
        return [record for record in records if key.items() <= record.items()]

    def sql_parts(self) -> list[str]:
        """Return the parts that measured SQL, one per PostgreSQL version, the newest last."""
        parts = [name for name in self._parts if name.startswith('sql ')]
        return sorted(parts, key=lambda name: int(name.split()[1]))


def ratio(these: list[float], those: list[float]) -> float:
    """Return the median ratio of two lists of rounds: other load affected both sides."""
    return median(this / that for this, that in zip(these, those, strict=True))

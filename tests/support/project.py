"""The project itself, and copies of it."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copy_project(folder: Path) -> Path:
    """Copy the files of the service and the tools into a folder; returns the copy's folder."""
    for name in ('api', 'db', 'tools'):
        shutil.copytree(ROOT / name, folder / 'project' / name)
    return folder / 'project'


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))

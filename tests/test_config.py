"""The settings: the file, the environment, and what is refused."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from api.config import ConfigError, Settings, key_in_file, load_settings, variable
from tests.support import ROOT, ApiProcess, clean_environment


def write(folder: Path, text: str) -> dict[str, str]:
    """Write a settings file; returns the environment that names it."""
    path = folder / 'settings.toml'
    path.write_text(text)
    return {'API_CONFIG': str(path)}


def run_api(**environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'api'],
        cwd=ROOT,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_example_shows_every_setting_with_its_default() -> None:
    example = tomllib.loads((ROOT / 'config.example.toml').read_text())
    shown = {
        (section, key): tuple(value) if isinstance(value, list) else value
        for section, content in example.items()
        for key, value in content.items()
    }
    assert shown == {key_in_file(f): f.default for f in fields(Settings)}


def test_example_explains_every_setting_and_names_its_variable() -> None:
    lines = (ROOT / 'config.example.toml').read_text().splitlines()
    for f in fields(Settings):
        key = key_in_file(f)[1]
        [number] = [n for n, line in enumerate(lines) if line.startswith(f'{key} = ')]
        comment = lines[number - 1]
        assert comment.startswith('# ')
        assert comment.endswith(f'({variable(f)})')


def test_defaults_need_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({}) == Settings()


def test_config_toml_of_the_working_folder_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'config.toml').write_text('[server]\nport = 8123\n')
    assert load_settings({}).port == 8123


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    environment = write(tmp_path, '[server]\nport = 8123\nworkers = 2\n')
    settings = load_settings(environment | {'API_PORT': '9000'})
    assert (settings.port, settings.workers) == (9000, 2)


def test_database_url_comes_from_either(tmp_path: Path) -> None:
    environment = write(tmp_path, '[database]\nurl = "host=a"\n')
    assert load_settings(environment).database_url == 'host=a'
    assert load_settings(environment | {'DATABASE_URL': 'host=b'}).database_url == 'host=b'
    assert load_settings(environment | {'DATABASE_URL': ''}).database_url == 'host=a'


def test_whole_number_is_fine_where_seconds_are_wanted() -> None:
    assert load_settings({'API_STATEMENT_TIMEOUT_S': '7'}).statement_timeout_s == 7.0


def test_list_is_separated_by_commas_in_the_environment() -> None:
    settings = load_settings({'API_CORS_ORIGINS': 'https://a.example, https://b.example'})
    assert settings.cors_origins == ('https://a.example', 'https://b.example')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('port = 1', 'port: there is no such setting'),
        ('[server]\nprot = 1', r'\[server\] prot: there is no such setting'),
        ('[sever]\nport = 1', r'\[sever\] port: there is no such setting'),
        ('[server]\nport = "1"', r'\[server\] port: must be of type int'),
        ('[server]\nport = true', r'\[server\] port: must be of type int'),
        ('[server]\nport = 1.5', r'\[server\] port: must be of type int'),
        ('[server]\nport = 65536', r'\[server\] port: must be from 0 to 65535'),
        ('[database]\nstatement_timeout_s = nan', 'must be from'),
        ('[database]\nstatement_timeout_s = inf', 'must be from'),
        ('[http]\ncors_origins = "https://a.example"', 'must be a list of strings'),
        ('[http]\ncors_origins = [1]', 'must be a list of strings'),
        ('[log]\nlog_level = "loud"', 'must be one of debug, info, warning, error'),
        ('[auth]\ntoken_sha256 = ["hunter2"]', r'every item must match \[0-9a-f\]\{64\}$'),
        ('[database]\nurl = 7', r'\[database\] url: must be of type str'),
        ('[server', 'settings.toml: '),
    ],
)
def test_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(write(tmp_path, text))


@pytest.mark.parametrize('value', ['x', '1.5', '"1"', '-1', '65536', '1 2', 'true', '[1]'])
def test_wrong_variable_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match='API_PORT: must be'):
        load_settings({'API_PORT': value})


@pytest.mark.parametrize(
    ('environment', 'message'),
    [
        ({'API_CONFIG': '/nowhere/config.toml'}, '/nowhere/config.toml: No such file'),
        ({'API_PORT': 'x'}, 'API_PORT: must be of type int'),
        ({}, 'no database: set DATABASE_URL'),
        (
            {'DATABASE_URL': 'postgresql://me:hunter2@['},
            'DATABASE_URL: must be a libpq URL',
        ),
        (
            {'DATABASE_URL': 'password=hunter2 nonsense=1'},
            'DATABASE_URL: must be a libpq URL',
        ),
    ],
)
def test_wrong_setting_ends_the_start_with_one_line(
    environment: dict[str, str], message: str
) -> None:
    ended = run_api(**environment)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert message in ended.stderr
    assert 'hunter2' not in ended.stderr + ended.stdout


def test_port_in_use_ends_the_start_with_one_line(api: ApiProcess, sample_url: str) -> None:
    ended = run_api(API_PORT=str(api.port), DATABASE_URL=sample_url)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f'error: cannot listen on 127.0.0.1 port {api.port}: Address already in use'
    )


def test_libpqs_own_variables_work(sample_url: str, start_api: Callable[..., ApiProcess]) -> None:
    # a keyword string that leaves the host to PGHOST, as ~/.pgpass and service files do
    host, port = sample_url.split('host=')[1].split('&port=')
    name = sample_url.split('/')[3].split('?', maxsplit=1)[0]
    api = start_api(DATABASE_URL=f'dbname={name}', PGHOST=host, PGPORT=port, PGUSER='postgres')
    assert api.get('/ready').status_code == 200

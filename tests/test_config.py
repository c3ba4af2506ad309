"""The settings: the file, the environment, and what is refused."""

import re
import tomllib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

import api.config
from api.config import ConfigError, Settings, known_settings, load_settings
from tests.support.commands import run_api
from tests.support.project import ROOT
from tests.support.service import ApiProcess

# for each setting: its name, its key in the file, and its variable
SETTINGS = [(name, place, variable) for name, _, place, variable in known_settings()]
HASH = sha256(b'token').hexdigest()
# the allowed values, as in the messages
PORTS = 'a whole number from 0 to 65535'
ORIGINS = 'a list of origins as browsers send them, such as https://example.com'
HASHES = 'a list of SHA-256 hashes (64 of 0-9, a-f), not that of an empty token'
URL = api.config.URLS


def write(folder: Path, text: str) -> dict[str, str]:
    """Write a settings file; returns the environment that names it."""
    path = folder / 'settings.toml'
    path.write_text(text)
    return {'API_CONFIG': str(path)}


def in_file(place: str, value: str) -> str:
    """Return the file that sets one setting, given as [section] key, to a TOML value."""
    section, key = place.split()
    return f'{section}\n{key} = {value}\n'


def refusal(environment: dict[str, str]) -> str:
    """Return the error message for invalid settings."""
    with pytest.raises(ConfigError) as refused:
        load_settings(environment)
    [line] = str(refused.value).splitlines()
    return line


def test_example_shows_every_setting_with_its_default() -> None:
    example = tomllib.loads((ROOT / 'config.example.toml').read_text())
    shown = {
        f'[{section}] {key}': tuple(value) if isinstance(value, list) else value
        for section, content in example.items()
        for key, value in content.items()
    }
    assert shown == {place: getattr(Settings(), name) for name, place, _ in SETTINGS}


def test_example_explains_every_setting_and_names_its_variable() -> None:
    example = (ROOT / 'config.example.toml').read_text()
    for _, place, variable in SETTINGS:
        key = place.split()[1]
        assert re.search(rf'^# .*\({variable}\)\n{key} = ', example, re.MULTILINE), key


def test_config_toml_of_the_working_folder_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'config.toml').write_text('\ufeff[server]\nport = 8123\n')  # a byte order mark
    assert load_settings({}).port == 8123
    assert load_settings({'API_CONFIG': ''}).port == 8123


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    text = '[server]\nport = 8123\nworkers = 2\n[database]\nurl = "host=a"\n'
    environment = write(tmp_path, text)
    settings = load_settings(environment | {'API_PORT': '9000'})
    assert (settings.port, settings.workers, settings.database_url) == (9000, 2, 'host=a')
    assert load_settings(environment | {'DATABASE_URL': 'host=b'}).database_url == 'host=b'


def test_empty_variable_overrides_the_file(tmp_path: Path) -> None:
    text = f'[database]\nurl = "host=a"\n[auth]\ntoken_sha256 = ["{HASH}"]\n'
    text += '[http]\ncors_origins = ["https://a.example"]\n'
    environment = write(tmp_path, text)
    assert load_settings(environment).token_sha256 == (HASH,)
    empty = {'DATABASE_URL': '', 'API_TOKEN_SHA256': '', 'API_CORS_ORIGINS': ' '}
    assert load_settings(environment | empty) == Settings()


def test_list_is_separated_by_commas_in_the_environment() -> None:
    settings = load_settings({'API_CORS_ORIGINS': 'https://a.example, https://b.example'})
    assert settings.cors_origins == ('https://a.example', 'https://b.example')
    assert load_settings({'API_FUNCTIONS': 'a b, /c'}).functions == ('a b', '/c')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('port = 1', 'port: there is no such section'),
        ('[server]\nprot = 1', '[server] prot: there is no such setting'),
        ('[sever]\nport = 1', '[sever] port: there is no such setting'),
        ('[server.port]\nnumber = 1', f'[server] port: must be {PORTS}'),
        ('[server]\nport = "1"', f'[server] port: must be {PORTS}'),
        ('[server]\nport = 65536', f'[server] port: must be {PORTS}'),
        ('[server]\nworkers = -1', '[server] workers: must be a whole number from 0 to 100'),
        ('[database]\nprepare = 1', '[database] prepare: must be true or false'),
        *(
            (
                f'[database]\nstatement_timeout_s = {value}',
                '[database] statement_timeout_s: must be a number from 0.1 to 3600',
            )
            for value in ['nan', 'inf', 'true', '"1"', '0', '3600.1', '1' + 400 * '0']
        ),
        *(
            (f'[http]\ncors_origins = {value}', f'[http] cors_origins: must be {ORIGINS}')
            for value in ['"https://a.example"', '[1]', '["https://a.example", "*"]']
        ),
        (f'[auth]\ntoken_sha256 = ["{HASH}\\n"]', f'[auth] token_sha256: must be {HASHES}'),
        ('[log]\nlog_level = "loud"', '[log] log_level: must be debug, info, warning or error'),
        ('[log]\nlog_format = "xml"', '[log] log_format: must be logfmt or json'),
        ('[database]\nurl = 7', f'[database] url: must be {URL}'),
    ],
)
def test_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(write(tmp_path, text)) == message


def test_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    environment = write(tmp_path, '[server\nport = "hunter2"')
    assert refusal(environment).startswith(f'{environment["API_CONFIG"]}: ')
    Path(environment['API_CONFIG']).write_bytes(b'\xff')
    assert refusal(environment).startswith(f'{environment["API_CONFIG"]}: ')


@pytest.mark.parametrize(
    ('variable', 'allowed', 'values'),
    [
        ('API_PORT', PORTS, ['', 'x', '1.0', '"1"', '-1', '65536', 'true', '[1]', '9' * 5000]),
        ('API_WORKERS', 'a whole number from 0 to 100', ['2\n3', '2\nother = 3', '2\r3']),
        (
            'API_POOL_TIMEOUT_S',
            'a number from 0.1 to 3600',
            ['', 'nan', 'inf', '-inf', '1e400', '0.09', 'true', '1.5s'],
        ),
        ('API_PREPARE', 'true or false', ['', 'yes', '1', '0', 'True', '"true"']),
        (
            'API_HOST',
            'a host name or address',
            ['', ' ', 'a b', 'http://localhost', 'a..b', '.', 'a' * 64],
        ),
        ('API_LOG_LEVEL', 'debug, info, warning or error', ['']),
    ],
)
def test_wrong_variable_is_refused(variable: str, allowed: str, values: list[str]) -> None:
    for value in values:
        assert refusal({variable: value}) == f'{variable}: must be {allowed}'


def test_white_space_around_a_variable_is_no_part_of_its_value(tmp_path: Path) -> None:
    environment = {
        **write(tmp_path, '[server]\nworkers = 2\n'),
        'DATABASE_URL': ' postgresql://host/name',
        'API_PORT': '\t8123\r',
        'API_HOST': 'localhost',
        'API_FUNCTIONS': '\na, b',
    }
    assert load_settings({name: f'{value}\n' for name, value in environment.items()}) == Settings(
        database_url='postgresql://host/name',
        port=8123,
        workers=2,
        host='localhost',
        functions=('a', 'b'),
    )


@pytest.mark.parametrize('variable', ['API_PROT', 'API_port', 'API_', 'API_DATABASE_URL'])
def test_unknown_variable_is_refused(variable: str) -> None:
    assert refusal({variable: 'hunter2'}) == f'{variable}: there is no such setting'


def test_variables_of_other_programs_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    others = {'PORT': 'x', 'api_port': 'x', 'MY_API_PORT': 'x', 'DATABASE_URL_OF_OTHERS': 'x'}
    assert load_settings(others) == Settings()


@pytest.mark.parametrize(('place', 'variable'), [written[1:] for written in SETTINGS])
def test_every_setting_refuses_nonsense_by_name_and_quotes_none(
    tmp_path: Path, place: str, variable: str
) -> None:
    assert refusal({variable: 'hunter2 ,'}).startswith(f'{variable}: must be ')
    assert 'hunter2' not in refusal({variable: 'hunter2 ,'})
    for value in ['"hunter2 ,"', '["hunter2 ,"]', '{hunter2 = "hunter2"}']:
        line = refusal(write(tmp_path, in_file(place, value)))
        assert line.startswith(f'{place}: must be ')
        assert 'hunter2' not in line
        assert 'None' not in line


def test_origin_is_as_browsers_send_it() -> None:
    origins = ('https://my_app.example.com:80', 'http://localhost:3000', 'http://[::1]:8000')
    assert load_settings({'API_CORS_ORIGINS': ','.join(origins)}).cors_origins == origins


@pytest.mark.parametrize(
    'origin',
    [
        *('*', 'null', 'example.com', 'https://', 'https://*.example.com', 'ftp://example.com'),
        *('http://localhost:3000/', 'https://example.com/path', 'https://user@example.com'),
        *('https://Example.com', 'HTTPS://example.com', 'https://bücher.example'),
        *('https://example.com:', 'https://example.com:0443', 'https://example.com:443'),
        *('https://a.example https://b.example', 'https://a.example,'),
        'https://a.example\nhttps://b.example',
    ],
)
def test_what_no_browser_sends_is_refused(origin: str) -> None:
    assert refusal({'API_CORS_ORIGINS': origin}) == f'API_CORS_ORIGINS: must be {ORIGINS}'


@pytest.mark.parametrize(
    'value', ['hunter2', HASH[1:], f'{HASH}0', HASH.upper(), f'{HASH},', sha256().hexdigest()]
)
def test_wrong_hash_of_a_token_is_refused(value: str) -> None:
    assert load_settings({'API_TOKEN_SHA256': f'{HASH}, {HASH}'}).token_sha256 == (HASH, HASH)
    assert refusal({'API_TOKEN_SHA256': value}) == f'API_TOKEN_SHA256: must be {HASHES}'


@pytest.mark.parametrize(
    'url',
    [
        'hunter2',
        'postgresql://me:hunter2@[',
        'password=hunter2 nonsense=1',
        'postgresql://host/%ffhunter2',
        # of other drivers
        'postgresql+psycopg://me:hunter2@host/name',
        'postgres+asyncpg://me:hunter2@host/name?ssl=require',
        'jdbc:postgresql://host/name?user=me&password=hunter2',
        'postgresql://me:hunter2@host/name?schema=public',
        # as --env-file of Docker passes them
        '"postgresql://me:hunter2@host/name"',
        "'host=a password=hunter2'",
        # libpq would use a part of the password as the host, the port or the database
        'postgresql://me:hunter2/x@host/name',
        'postgresql://me:7/hunter2@host/name',
        'postgresql://me:x@hunter2@host/name',
        'postgres://me@example.com:hunter2@host/name',
        'postgresql://me:hunter2%x@host/name',
        'host=a connect_timeout=hunter2',
        'password=hunter2\udcff',
    ],
)
def test_url_that_libpq_cannot_read_is_refused(url: str) -> None:
    assert refusal({'DATABASE_URL': url}) == f'DATABASE_URL: must be {URL}'


def test_host_can_be_a_name_or_an_address() -> None:
    for host in ('localhost', '0.0.0.0', '::', 'fe80::1%eth0', 'my_host.example.'):
        assert load_settings({'API_HOST': host}).host == host


@pytest.mark.parametrize(
    'url',
    [
        'postgres://me:p%40ss%2Fword#?!@one:1,two:2/name?user=a@example.com',
        'postgresql:///name?host=/run/postgresql',
        'host=@abstract password=/@',
    ],
)
def test_url_that_libpq_can_read_is_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PGCONNECT_TIMEOUT', 'nonsense')  # which the check of the URL ignores
    assert load_settings({'DATABASE_URL': url}).database_url == url


PRELOAD = {'DATABASE_URL': 'host=/nowhere', 'GUNICORN_CMD_ARGS': '--preload'}


@pytest.mark.parametrize(
    ('arguments', 'environment', 'message'),
    [
        ([], {}, 'no database is configured: set DATABASE_URL or url in [database] of config.toml'),
        (['--check'], {'API_PORT': 'hunter2'}, f'API_PORT: must be {PORTS}'),
        ([], {'API_PROT': 'hunter2'}, 'API_PROT: there is no such setting'),
        ([], PRELOAD, 'preload_app is not supported: workers would share connections'),
        ([], {'API_PORT': ''}, f'API_PORT: must be {PORTS}'),
        ([], {'API_CONFIG': '/nowhere/a.toml'}, '/nowhere/a.toml: No such file or directory'),
        (['--check'], {'DATABASE_URL': 'user=me hunter2'}, f'DATABASE_URL: must be {URL}'),
    ],
)
def test_wrong_setting_ends_start_and_check_with_one_line(
    arguments: list[str], environment: dict[str, str], message: str
) -> None:
    ended = run_api(*arguments, **{'DATABASE_URL': ''} | environment)
    assert (ended.returncode, ended.stdout) == (1, '')
    assert ended.stderr == f'error: {message}\n'


def test_libpqs_own_variables_work(sample_url: str, start_api: Callable[..., ApiProcess]) -> None:
    # a connection string without a host, which PGHOST then sets
    host, port = sample_url.split('host=')[1].split('&port=')
    name = sample_url.split('/')[3].split('?', maxsplit=1)[0]
    api = start_api(DATABASE_URL=f'dbname={name}', PGHOST=host, PGPORT=port, PGUSER='postgres')
    assert api.get('/ready').status_code == 200

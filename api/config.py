"""The service's settings: a TOML file, overridden by environment variables."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import psycopg
from msgspec import Meta, Struct, convert
from psycopg.conninfo import conninfo_to_dict, timeout_from_conninfo

from api import StartError

# what is allowed where it is no range of numbers: in words for the message, and as a pattern
SWITCH = Meta(description='true or false')
URL = Meta(
    # a raw / or @ in a password: libpq takes the rest for host, port or name, which messages show
    pattern=r'\A(?!postgres(ql)?://[^/@]*[/@][^?]*@)[^\0]*\Z',
    description='a libpq URL such as postgresql://user@host/name, or host=... dbname=... (without'
    ' quotes, jdbc:, +driver or parameters that libpq lacks; in a password, %25 for %, %2F for /,'
    ' %40 for @)',
)
HOST = Meta(pattern=r'(?a)\A[\w:%-]{1,63}(\.[\w:%-]{1,63})*\.?\Z', description='a host or address')
LEVEL = Meta(pattern=r'\A(debug|info|warning|error)\Z', description='debug, info, warning or error')
FOLDER = Meta(pattern=r'\A[^,\0]+\Z')
FOLDERS = Meta(description='a list of folders, without commas in their names')
SECONDS = Meta(ge=0.1, le=3600)
FORMAT = Meta(pattern=r'\A(logfmt|json)\Z', description='logfmt or json')
SHA256_OF_NOTHING = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
HASH = Meta(pattern=rf'\A(?!{SHA256_OF_NOTHING})[0-9a-f]{{64}}\Z')
HASHES = Meta(description='a list of SHA-256 hashes (64 of 0-9, a-f), not that of an empty token')
OMITTED_PORT = r'http://.*:80\Z|https://.*:443\Z'
ORIGIN = Meta(
    pattern=rf'\A(?!{OMITTED_PORT})https?://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[1-9][0-9]*)?\Z'
)
ORIGINS = Meta(description='a list of origins as browsers send them, such as https://example.com')


class ConfigError(StartError):
    """A setting is unknown or wrong; the message names it and says what is allowed."""


class Settings(Struct, frozen=True, kw_only=True):
    """What can be configured; config.example.toml says what each setting means.

    A setting's name is its key in the file and, in capitals after API_, its environment
    variable. Only `database_url` is `url` in its section and DATABASE_URL outside. A type is
    annotated with the section and with what is allowed.
    """

    database_url: Annotated[str, 'database', URL] = ''
    pool_size: Annotated[int, 'database', Meta(ge=1, le=1000)] = 4
    pool_max_waiting: Annotated[int, 'database', Meta(ge=3, le=1000)] = 200
    pool_timeout_s: Annotated[float, 'database', Meta(ge=0.1, le=3600)] = 1.5
    pool_lifetime_s: Annotated[float, 'database', Meta(ge=1, le=31536000)] = 3600.0
    statement_timeout_s: Annotated[float, 'database', SECONDS] = 5.0
    slow_reports_at_once: Annotated[int, 'database', Meta(ge=1, le=1000)] = 1
    prepare: Annotated[bool, 'database', SWITCH] = True
    session_settings: Annotated[bool, 'database', SWITCH] = True
    functions: Annotated[tuple[Annotated[str, FOLDER], ...], 'database', FOLDERS] = ()

    host: Annotated[str, 'server', HOST] = '127.0.0.1'
    port: Annotated[int, 'server', Meta(ge=0, le=65535)] = 8000
    workers: Annotated[int, 'server', Meta(ge=0, le=1000)] = 0
    worker_timeout_s: Annotated[int, 'server', Meta(ge=5, le=3600)] = 30
    shutdown_timeout_s: Annotated[int, 'server', Meta(ge=1, le=3600)] = 10
    client_timeout_s: Annotated[int, 'server', Meta(ge=1, le=3600)] = 60

    token_sha256: Annotated[tuple[Annotated[str, HASH], ...], 'auth', HASHES] = ()

    cache_s: Annotated[int, 'http', Meta(ge=0, le=31536000)] = 10
    cache_past_s: Annotated[int, 'http', Meta(ge=0, le=31536000)] = 300
    cors_origins: Annotated[tuple[Annotated[str, ORIGIN], ...], 'http', ORIGINS] = ()

    log_level: Annotated[str, 'log', LEVEL] = 'info'
    log_format: Annotated[str, 'log', FORMAT] = 'logfmt'


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        environment: Variables by name. API_CONFIG names the file, which must then exist;
            without it, config.toml in the working folder is read if it is there.

    Raises:
        ConfigError: The file cannot be read, a setting is unknown, or a value is not allowed.
    """
    ours = {
        name: value.strip()  # a secret's file often ends with a newline
        for name, value in environment.items()
        if name.startswith('API_') or name == 'DATABASE_URL'
    }
    written = read_file(ours.pop('API_CONFIG', '')) | ours
    values = {}
    for name, type_ in get_type_hints(Settings, include_extras=True).items():
        for place in places(name, type_.__metadata__[0]):
            if place in written:
                values[name] = checked(place, written.pop(place), type_)
    if written:
        raise ConfigError(f'{min(written)}: there is no such setting')
    return Settings(**values)


def places(name: str, section: str) -> tuple[str, str]:
    """Return where a setting can be written: its key in the file, and its variable."""
    if name == 'database_url':
        return '[database] url', 'DATABASE_URL'
    return f'[{section}] {name}', f'API_{name.upper()}'


def read_file(named: str) -> dict[str, Any]:
    """Return the values of a settings file by section and key; none if there is no file."""
    path = Path(named or 'config.toml')
    try:
        file = tomllib.loads(path.read_text('utf-8-sig')) if named or path.exists() else {}
    except (OSError, ValueError) as ex:  # neither quotes a value
        raise ConfigError(f'{path}: {getattr(ex, "strerror", ex)}') from ex
    values = {}
    for section, content in file.items():
        if not isinstance(content, dict):
            raise ConfigError(f'{section}: there is no such section')
        values |= {f'[{section}] {key}': value for key, value in content.items()}
    return values


def checked(place: str, value: Any, type_: Any) -> Any:
    """Return a value if the setting allows it; the message never quotes it."""
    kind, allowed = type_.__origin__, type_.__metadata__[1]
    try:
        value = convert(value if place.startswith('[') else parsed(value, kind), type_)
        if allowed is URL:
            # PGCONNECT_TIMEOUT does not count here: the URL is not to blame for it
            timeout_from_conninfo({'connect_timeout': 2} | conninfo_to_dict(value))
    except (ValueError, psycopg.ProgrammingError):
        number = 'a whole number' if kind is int else 'a number'
        limits = allowed.description or f'{number} from {allowed.ge} to {allowed.le}'
        raise ConfigError(f'{place}: must be {limits}') from None
    return value


def parsed(text: str, kind: Any) -> Any:
    """Return what a variable's text is in the file."""
    if kind is str:
        return text
    if get_origin(kind) is not tuple:
        [line] = text.split('\n')  # TOML would read a second line as another setting
        return tomllib.loads(f'value = {line}')['value']
    return [item.strip() for item in text.split(',')] if text else []

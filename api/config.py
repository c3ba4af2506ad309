"""The service's settings: a TOML file, overridden by environment variables."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import psycopg
from msgspec import Meta, Struct, convert
from psycopg.conninfo import conninfo_to_dict, timeout_from_conninfo

from api import StartError

# Each type states the limits of its values. Types without a range of numbers have a description,
# which error messages quote
Switch = Annotated[bool, Meta(description='true or false')]
Count = Annotated[int, Meta(ge=1, le=1000)]
Seconds = Annotated[float, Meta(ge=0.1, le=3600)]
# libpq misreads a raw / or @ in a password, and its error messages show part of the password
URL = r'\A(?!postgres(ql)?://[^/@]*[/@][^?]*@)[^\0]*\Z'
URLS = (
    'a libpq URL such as postgresql://user@host/name, or host=... dbname=... (without quotes,'
    ' jdbc:, +driver or parameters that libpq lacks; in a password, %25 for %, %2F for /,'
    ' %40 for @)'
)
Url = Annotated[str, Meta(pattern=URL, description=URLS)]
HOST = r'(?a)\A[\w:%-]{1,63}(\.[\w:%-]{1,63})*\.?\Z'
Host = Annotated[str, Meta(pattern=HOST, description='a host name or address')]
LEVELS = Meta(description='debug, info, warning or error')
FORMATS = Meta(description='logfmt or json')
FOLDERS = Meta(description='a list of folders, without commas in their names')
Folders = Annotated[tuple[Annotated[str, Meta(pattern=r'\A[^,\0]+\Z')], ...], FOLDERS]
SHA256_OF_NOTHING = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
HASH = rf'\A(?!{SHA256_OF_NOTHING})[0-9a-f]{{64}}\Z'
HASHES = Meta(description='a list of SHA-256 hashes (64 of 0-9, a-f), not that of an empty token')
Hashes = Annotated[tuple[Annotated[str, Meta(pattern=HASH)], ...], HASHES]
DEFAULT_PORT = r'http://.*:80\Z|https://.*:443\Z'  # browsers omit it
ORIGIN = rf'\A(?!{DEFAULT_PORT})https?://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[1-9][0-9]*)?\Z'
ORIGINS = Meta(description='a list of origins as browsers send them, such as https://example.com')
Origins = Annotated[tuple[Annotated[str, Meta(pattern=ORIGIN)], ...], ORIGINS]


class ConfigError(StartError):
    """A setting is unknown or wrong. The message names the setting and says what is allowed."""


class Settings(Struct, frozen=True, kw_only=True):
    """All settings; config.example.toml describes them.

    Each type is annotated with the limits of its values and with the section of the file.
    """

    database_url: Annotated[Url, 'database'] = ''
    pool_size: Annotated[Count, 'database'] = 4
    pool_max_waiting: Annotated[Count, 'database'] = 100
    pool_timeout_s: Annotated[Seconds, 'database'] = 1.5
    pool_lifetime_s: Annotated[float, Meta(ge=1, le=31536000), 'database'] = 3600.0
    statement_timeout_s: Annotated[Seconds, 'database'] = 5.0
    slow_reports_at_once: Annotated[Count, 'database'] = 1
    prepare: Annotated[Switch, 'database'] = True
    session_settings: Annotated[Switch, 'database'] = True
    functions: Annotated[Folders, 'database'] = ()

    host: Annotated[Host, 'server'] = '127.0.0.1'
    port: Annotated[int, Meta(ge=0, le=65535), 'server'] = 8000
    workers: Annotated[int, Meta(ge=0, le=100), 'server'] = 0
    worker_timeout_s: Annotated[int, Meta(ge=5, le=3600), 'server'] = 30
    shutdown_timeout_s: Annotated[int, Meta(ge=2, le=3600), 'server'] = 10
    client_timeout_s: Annotated[int, Meta(ge=1, le=3600), 'server'] = 60

    token_sha256: Annotated[Hashes, 'auth'] = ()

    cache_s: Annotated[int, Meta(ge=0, le=31536000), 'http'] = 10
    cache_past_s: Annotated[int, Meta(ge=0, le=31536000), 'http'] = 300
    cors_origins: Annotated[Origins, 'http'] = ()

    log_level: Annotated[Literal['debug', 'info', 'warning', 'error'], LEVELS, 'log'] = 'info'
    log_format: Annotated[Literal['logfmt', 'json'], FORMATS, 'log'] = 'logfmt'


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        environment: Variables by name. API_CONFIG names the file, which must then exist. Without
            it, config.toml in the working directory is read if it exists.

    Raises:
        ConfigError: The file cannot be read, a setting is unknown, or a value is not allowed.
    """
    variables = {
        name: value.strip()  # the file of a secret often ends with a newline
        for name, value in environment.items()
        if name.startswith('API_') or name == 'DATABASE_URL'
    }
    given = read_file(variables.pop('API_CONFIG', '')) | variables
    values = {}
    for name, type_, *places in known_settings():
        for place in places:
            if place in given:
                values[name] = checked(name, type_, place, given.pop(place))
    if given:
        raise ConfigError(f'{min(given)}: there is no such setting')
    return Settings(**values)


def known_settings() -> Iterator[tuple[str, Any, str, str]]:
    """Yield each setting's name, type, key in the file, and environment variable."""
    for name, type_ in get_type_hints(Settings, include_extras=True).items():
        _, section = type_.__metadata__
        if name == 'database_url':
            yield name, type_, '[database] url', 'DATABASE_URL'
        else:
            yield name, type_, f'[{section}] {name}', f'API_{name.upper()}'


def read_file(name: str) -> dict[str, Any]:
    """Return the values of a settings file by section and key, as in '[server] port'."""
    path = Path(name or 'config.toml')
    try:
        file = tomllib.loads(path.read_text('utf-8-sig')) if name or path.exists() else {}
    except (OSError, ValueError) as ex:  # neither message quotes a value
        raise ConfigError(f'{path}: {getattr(ex, "strerror", ex)}') from ex
    values = {}
    for section, content in file.items():
        if not isinstance(content, dict):
            raise ConfigError(f'{section}: there is no such section')
        values |= {f'[{section}] {key}': value for key, value in content.items()}
    return values


def checked(name: str, type_: Any, place: str, value: Any) -> Any:
    """Return the value of a setting, converted to its type. Messages never quote the value."""
    kind, (limits, _) = type_.__origin__, type_.__metadata__
    try:
        value = convert(value if place.startswith('[') else parsed(value, kind), type_)
        if name == 'database_url':
            # with a connect_timeout, an invalid PGCONNECT_TIMEOUT is not reported as a wrong URL
            timeout_from_conninfo({'connect_timeout': 2} | conninfo_to_dict(value))
    except (ValueError, psycopg.ProgrammingError):
        number = 'a whole number' if kind is int else 'a number'
        allowed = limits.description or f'{number} from {limits.ge} to {limits.le}'
        raise ConfigError(f'{place}: must be {allowed}') from None
    return value


def parsed(text: str, kind: Any) -> Any:
    """Parse the text of an environment variable to the value that the file would have."""
    if kind is str or get_origin(kind) is Literal:
        return text
    if get_origin(kind) is tuple:
        return [item.strip() for item in text.split(',')] if text else []
    [line] = text.split('\n')  # refuse line breaks: TOML would read another setting
    return tomllib.loads(f'value = {line}')['value']

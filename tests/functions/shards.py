"""Uses on several servers: with Citus, and with postgres_fdw as in db/scaling.md."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.pages import OF_CITUS, SCALING, blocks, commands
from tests.support.commands import clean_environment
from tests.support.postgres import TcpServer, program, run_file
from tests.support.project import ROOT
from tools.embedded import EmbeddedServer, load

READONLY_ROLE = ROOT / 'db' / 'readonly_role.sql'
# the role that db/scaling.md requires
USES = 'create role uses login; grant select, insert, delete on benefit_usage to uses;'


@dataclass
class Shards:
    """A database whose uses are on other servers.

    Attributes:
        url: The database, on the first server.
        servers: The servers, in their order.
    """

    url: str
    servers: list[EmbeddedServer]


@contextmanager
def citus_cluster(folder: Path) -> Iterator[Shards]:
    """Run a coordinator and two workers, set up as in db/citus/README.md."""
    if not (binaries := os.environ.get('CITUS_BIN')):
        pytest.skip('CITUS_BIN is not set to the programs of a PostgreSQL with Citus')
    options = {'shared_preload_libraries': 'citus', 'citus.node_conninfo': 'sslmode=disable'}
    with ExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv('POSTGRES_BIN', binaries)
        nodes = [stack.enter_context(TcpServer(**options)) for _ in range(3)]
        for node in nodes:
            with psycopg.connect(node.url(), autocommit=True) as connection:
                connection.execute('create extension citus')
        statements, *_ = blocks('sql', OF_CITUS)
        statements = statements.replace("'coordinator.example.com'", "'127.0.0.1'")
        for number, node in enumerate(nodes[1:], start=1):
            place = f"'worker-{number}.example.com', 5432"
            assert place in statements
            statements = statements.replace(place, f"'127.0.0.1', {node.settings['port']}")
        url = nodes[0].url()
        load(url, 'schema.sql')
        load_text(nodes[0], folder / 'nodes.sql', statements)
        psql = Path(program(nodes[0], 'psql')).parent
        for command in commands(OF_CITUS):
            environment = {'ADMIN_URL': url, 'PATH': f'{psql}:{os.environ["PATH"]}'}
            words = command.replace('.venv/bin/python', sys.executable)
            subprocess.run(
                ['sh', '-c', words], cwd=ROOT, env=clean_environment() | environment, check=True
            )
        yield Shards(url, nodes)


@contextmanager
def foreign_servers(folder: Path) -> Iterator[Shards]:
    """Run a server with the uses on two others, as in db/scaling.md."""
    of_others, of_first = [
        block for block in blocks('sql', SCALING) if 'partition by range' not in block
    ]
    with ExitStack() as stack:
        first, *others = [stack.enter_context(EmbeddedServer()) for _ in range(3)]
        with psycopg.connect(first.url()) as connection:
            if connection.info.server_version < 140000:
                pytest.skip('db/scaling.md describes postgres_fdw from PostgreSQL 14 on')
        for number, other in enumerate(others):
            load_text(other, folder / 'others.sql', of_others + USES)
            place = f"host 'uses-{number}.example.com', dbname 'name'"
            assert place in of_first
            of_first = of_first.replace(
                place, f"host '{other.base_dir}', port '5432', dbname 'test'"
            )
        of_first = of_first.replace("password 'SECRET'", "password_required 'false'")
        load(first.url(), 'schema.sql', 'indexes.sql')
        run_file(first, READONLY_ROLE)
        load_text(first, folder / 'first.sql', of_first)
        yield Shards(first.url(), [first, *others])


def load_text(server: EmbeddedServer, path: Path, text: str) -> None:
    """Write statements to a file, and run it in psql."""
    path.write_text(text)
    run_file(server, path)

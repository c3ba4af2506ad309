"""`python -m api.server.dev` serves, and serves anew when a .sql or .py file has changed."""

import http.client
import logging
import signal
import subprocess
import sys
from pathlib import Path

from watchfiles import DefaultFilter, watch

from api.config import ConfigError, Settings, load_settings
from api.server.listener import listen
from api.server.process import keep_standard_descriptors
from api.telemetry.log import configure_logging

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
# a server ends by itself shutdown_timeout_s and a second after a signal
GRACE_S = 2.0
SERVE = [sys.executable, '-m', 'api']


class SourceFilter(DefaultFilter):
    """Passes changes of .sql and .py files only."""

    def __call__(self, change: object, path: str) -> bool:
        """Tell whether to look at a change."""
        return path.endswith(('.sql', '.py')) and super().__call__(change, path)


def main() -> int:
    """Serve until SIGINT or SIGTERM.

    The listening socket stays open here, so a request that comes while one server takes over
    from another waits instead of failing.
    """
    keep_standard_descriptors()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        logging.getLogger('watchfiles').setLevel(logging.WARNING)
        if error := complaint(set()):
            raise ConfigError(error)
        listener = listen(settings)
    except ConfigError as ex:
        print(f'error: {ex}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    with listener:
        server = start(listener.fileno())
        try:
            for changes in watch(ROOT / 'api', ROOT / 'db', watch_filter=SourceFilter()):
                paths = {Path(path) for _, path in changes}
                names = ', '.join(sorted(path.name for path in paths))
                if error := complaint(paths):
                    log.error('%s changed, the old version stays: %s', names, error)
                    continue
                stop(server, settings)
                server = start(listener.fileno())
                wait_for(server, *listener.getsockname()[:2])
                log.info('%s changed, the new version is live', names)
        except KeyboardInterrupt:
            pass
        finally:
            stop(server, settings)
    return 0


def complaint(paths: set[Path]) -> str | None:
    """Say in one line why the files as they are now cannot be served; None if they can.

    Args:
        paths: The files that have changed.
    """
    for path in paths:
        if path.suffix == '.py' and path.exists():
            try:
                compile(path.read_bytes(), path, 'exec')
            except SyntaxError as ex:
                return f'{path.name} line {ex.lineno}: {ex.msg}'
    check = subprocess.run([*SERVE, '--check'], capture_output=True, text=True, check=False)
    if check.returncode == 0:
        return None
    return (check.stderr.strip().splitlines() or ['the check failed'])[-1].removeprefix('error: ')


def start(fileno: int) -> subprocess.Popen:
    """Start a server on a listening socket, handed over as systemd does (see sd_listen_fds)."""
    command = ['sh', '-c', f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&{fileno}', 'sh', *SERVE]
    # a session of its own, so that Ctrl-C ends this process, which then ends the server
    return subprocess.Popen(command, pass_fds=[fileno], start_new_session=True)


def stop(server: subprocess.Popen, settings: Settings) -> None:
    """End a server, whatever it does."""
    server.terminate()
    try:
        server.wait(settings.shutdown_timeout_s + GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()


def wait_for(server: subprocess.Popen, host: str, port: int) -> None:
    """Wait until a server answers, or has ended."""
    connection = http.client.HTTPConnection(host, port, timeout=1)
    while server.poll() is None:
        try:
            connection.request('GET', '/live')
            connection.getresponse()
        except OSError:
            connection.close()
        else:
            break


if __name__ == '__main__':
    sys.exit(main())

"""The listening socket."""

import os
import socket

from api.config import ConfigError, Settings

BACKLOG = 1024
# the first descriptor that systemd's socket activation hands over (see sd_listen_fds)
HANDED_OVER = 3


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket, or take the one that this process was started with.

    systemd's socket activation can pass one, and `dev` does.

    Raises:
        ConfigError: The address cannot be had, or the socket that was passed is not TCP.
    """
    if os.environ.get('LISTEN_PID') == str(os.getpid()):
        listener = socket.socket(fileno=HANDED_OVER)
        if listener.family == socket.AF_UNIX:
            raise ConfigError('cannot serve on a Unix socket, only on TCP')
    else:
        listener = open_listener(settings)
    if hasattr(socket, 'TCP_USER_TIMEOUT'):  # of every connection: none to read an answer
        timeout_ms = settings.client_timeout_s * 1000
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    return listener


def open_listener(settings: Settings) -> socket.socket:
    """Listen on the configured address; see listen."""
    try:
        return socket.create_server(
            (settings.host, settings.port),
            family=socket.AF_INET6 if ':' in settings.host else socket.AF_INET,
            backlog=BACKLOG,
            reuse_port=settings.reuse_port,
        )
    except OSError as ex:
        reason = os.strerror(ex.errno) if (ex.errno or 0) > 0 else ex.strerror
        raise ConfigError(
            f'cannot listen on {settings.host} port {settings.port}: {reason}'
        ) from ex

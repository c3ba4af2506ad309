"""Processes, sockets and signals: waitress in several workers, kept alive by a small parent.

    supervisor   the parent: starts, watches, replaces and ends the workers
    check        whether the database has what the files need, and check_process where that is done
    worker       one process: its application, its sessions, its server
    http_server  waitress's server, as a worker runs it
    channel      a client's connection: what waitress reads and answers by itself
    crew         the threads of a worker
    listener     the listening socket, and what share of its connections a worker takes
    process      what a process asks of its system: cores, descriptors, memory, signals, children
    dev          `make dev`

Imports anything of the service; only the commands import it (`__main__`, `db/embedded.py`).

**waitress.** Only `http_server` and `channel` import it; `crew` is the task dispatcher that it
calls. This is all that they use of what it does not document. It is pinned to 3.0.2 in
`requirements/`; with another version, read these again.

| what | why | the test that would notice |
| --- | --- | --- |
| `TcpWSGIServer(_sock=, dispatcher=, adj=, sockinfo=, bind_socket=False)`, `Adjustments` | the workers share one socket; `create_server` makes no subclass | every test with a server |
| `server._map`, `channel._fileno`; `readable()`, `writable()`, `wasyncore.read`, `wasyncore.write` | threads take turns in the loop; the system keeps what it watches | every test with a server; `tests/faults/test_connections.py` |
| `server.channel_class`; `HTTPChannel.parser_class`, `task_class`, `error_task_class` | problems instead of plain text | `tests/http/test_malformed_http.py` |
| `add_task(channel)`, `channel.service()` of a dispatcher | the thread that received a request answers it | `tests/test_server.py`, slow report |
| `server.pull_trigger`, `server.trigger` | no wake-up where no thread waits; something done in the loop | `tests/faults/test_shutdown.py` |
| `server.accepting`, `handle_accept`, `maintenance`, `wasyncore.dispatcher.close` | many connections at once, a pause without descriptors, an end that answers all who came | `tests/faults/test_connections.py`, `test_shutdown.py` |
| `server.active_channels`; `channel.requests`, `total_outbufs_len`, `last_activity`, `requests_lock`, `close_when_flushed`, `will_close`, `handle_close`, `handle_read`, `_flush_outbufs_below_high_watermark` | who still waits for an answer, who does not read, a close that cuts off no answer | `tests/faults/test_clients.py`, `test_connections.py`, `tests/http/test_malformed_http.py` |
| `WSGITask.build_response_header`, `set_close_on_finish`, `ErrorTask.execute`; `task.request.headers` | `Connection: close` when it is, and 304 that keeps its connection | `tests/http/test_caching.py` |
| `HTTPRequestParser.parse_header`, `header_plus` | malformed requests that waitress fails at | `tests/http/test_fuzz.py` |
"""  # noqa: E501

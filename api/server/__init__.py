"""gunicorn runs the processes, waitress speaks HTTP; our code configures them.

    service      the gunicorn application: configuration, check at the start, reload
    check        whether the database can run every SQL file
    worker       a gunicorn worker that runs waitress
    threads      the threads of a worker, which share waitress's loop
    http_server  waitress: limits, balanced connections, problem documents

It may import anything; only `__main__` imports it. Of gunicorn 27.0.1 and waitress 3.0.2 (see
`requirements/`), these parts are not documented. Read them again before changing a version:

| what | why | test |
| --- | --- | --- |
| `Worker.run`, `alive`, `ppid`, `PIPE`, `notify` | a worker of our own | `tests/server` |
| `Logger.setup`, `util.make_fail_app` | gunicorn's lines in our log; errors in `make dev` | `test_dev.py` |
| `create_server(_dispatcher=)`, `add_task`, `channel.service` | our threads | all |
| `wasyncore.loop`, `trigger`, `server._map`, `pull_trigger` | run and wake the loop | `test_load.py` |
| `server.handle_accept`, `accepting`, `wasyncore.dispatcher.close` | accept all that wait, drain | `test_stop.py` |
| `channel_class`, `parser_class`, `task_class`, `error_task_class` | problem documents | `test_malformed_http.py` |
| `channel.requests`, `total_outbufs_len`, `last_activity`, `_flush_outbufs_below_high_watermark` | slow clients, drain | `test_clients.py` |
"""  # noqa: E501

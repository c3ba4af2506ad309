"""gunicorn runs the processes, waitress speaks HTTP; our code configures them.

    service      the gunicorn application: configuration, check at the start, reload
    check        whether the database can run every SQL file
    worker       a gunicorn worker that runs waitress
    threads      the threads of a worker, which share waitress's loop
    http_server  waitress: limits, balanced connections, problem documents

It may import anything; only `__main__` imports it. docs/design.md lists the parts of gunicorn and
waitress that it uses and that they do not document.
"""

"""gunicorn runs the processes, waitress speaks HTTP.

    service      the gunicorn application: configuration, check at the start, reload
    check        whether the database can run every SQL file
    worker       a gunicorn worker that runs waitress
    threads      the threads of a worker, which share waitress's loop
    http_server  waitress: limits, balanced connections, problem documents

Imports anything of the service; only `__main__` imports it.
"""

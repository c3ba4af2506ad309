"""gunicorn runs the processes, waitress speaks HTTP, gevent waits; our code configures them.

    service      the gunicorn application: configuration, check at the start, reload
    check        whether the database can run every SQL file
    worker       gunicorn's gevent worker, with waitress and balanced connections
    http_server  waitress: a greenlet for each connection, limits, problem documents

docs/design.md lists the undocumented parts of libraries that it uses.
"""

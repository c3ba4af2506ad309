"""Commands for developers and DBAs: the temporary database, explain, pgbench and compare."""

"""Runs a program as the user `nobody` if root calls it, in a session of its own.

    python -I -S launch.py PROGRAM [ARGUMENT...]

PostgreSQL refuses to run as root. Ctrl-C on the terminal does not reach another session, so the
caller ends the program. On Linux, the program ends as well when its parent dies.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1

command = sys.argv[1:]
os.setsid()
os.chdir('/')
try:
    if os.getuid() == 0:
        nobody = pwd.getpwnam('nobody')
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    os.execv(command[0], command)  # noqa: S606 - the caller chooses the command
except (KeyError, OSError) as ex:
    sys.exit(f'cannot run {command[0]}: {ex}')

"""Runs a program in a new session, and as the user `nobody` if the caller is root.

    python -I -S launch.py PROGRAM [ARGUMENT...]

PostgreSQL refuses to run as root. Ctrl-C on the terminal does not reach the new session, so the
caller must end the program. On Linux, the program also ends when its parent dies.
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

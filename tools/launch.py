"""Runs a program for as long as its parent lives, in a session of its own, not as root.

    python -I -S launch.py UID GID PROGRAM [ARGUMENT...]

In a session of its own, Ctrl-C ends the command that uses the program, and that then ends the
program. PostgreSQL refuses to run as root.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

uid, gid, *command = sys.argv[1:]
os.setsid()
os.chdir('/')
if int(uid) != os.getuid():
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
os.execv(command[0], command)  # noqa: S606 - the command of whoever runs this

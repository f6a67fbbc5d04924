"""What a child process needs of its operating system: to die with its parent and to leave a trace when it crashes."""

import ctypes
import faulthandler
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def become_child(parent_pid: int) -> None:
    """Die when process `parent_pid` dies, however it dies. Ends the process when that has happened already.

    Linux only; elsewhere the closed socket tells, as soon as the runner looks at it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def prepare() -> None:
    """Ctrl-C at the terminal is the gateway's business; a crash in native code prints where it was."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()

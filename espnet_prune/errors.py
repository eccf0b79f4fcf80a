"""Errors that a user can correct, and how commands end with them."""

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable


class UserError(ValueError):
    """Something the user asked for cannot be done.

    The message is one line, which names the fault and then the remedy.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def explain(error: OSError) -> str:
    """Describe a fault of the machine, with its file and the remedy, in one line."""
    remedies = {
        errno.ENOSPC: "free disk space",
        errno.EDQUOT: "free disk space, or ask for a larger quota",
        errno.EFBIG: "choose a disk that can store larger files",
        errno.EROFS: "choose a writable folder",
        errno.EACCES: "change its permissions, or choose another file or folder",
        errno.EPERM: "change its permissions, or choose another file or folder",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.ENOENT: "correct the name, or run the step that makes it",
        errno.ENOTDIR: "correct the name, a part of it is a file",
        errno.EISDIR: "name a file, not a folder",
        errno.EMFILE: "allow more open files (ulimit -n), or use fewer processes",
        errno.ENOMEM: "free memory, or use fewer processes or smaller batches",
        errno.EIO: "check the disk, or copy the file again",
    }
    named = (error.filename, error.filename2)  # numbers of open files say nothing
    names = [os.fsdecode(each) for each in named if each and not isinstance(each, int)]
    names = [each if len(each) <= 200 else f"{each[:197]}..." for each in names]
    where = " and ".join(names) or "a file"
    reason = error.strerror or first_line(error)
    remedy = remedies.get(error.errno or 0, "check this file and its disk")
    return f"cannot use {where} ({reason}): {remedy}"


def run(main: Callable[[], None]) -> None:
    """Run a command; bad input, faults of the machine and interruptions are one line.

    The exit code is 2 on a ``UserError`` and on a fault of the machine such as a full
    disk, and, as in shells, 130 on Ctrl-C.
    """
    interrupted = []

    def interrupt(*_: object) -> None:
        interrupted.append(True)
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        main()
    except UserError as error:
        _end(str(error))
    except (KeyboardInterrupt, Exception) as error:
        # a library that is interrupted while it is imported may raise another error
        if interrupted or isinstance(error, KeyboardInterrupt):
            print("espnet_prune: interrupted", file=sys.stderr)
            sys.exit(130)
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            sys.exit(141)
        if not isinstance(error, OSError) or error.errno is None:
            raise
        _end(explain(error))


def _output_is_closed() -> bool:
    """Return whether the reader of the output, such as ``head``, has ended."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in output.poll(0)):
        return False
    # otherwise Python would fail again when it ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _end(message: str) -> None:
    print(f"espnet_prune: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)

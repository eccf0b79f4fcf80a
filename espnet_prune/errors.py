"""Errors that a user can correct, and how commands end with them."""

import copyreg
import errno
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable

LONGEST_WORD = 200  # characters of a message; paths may have thousands


class UserError(ValueError):
    """Something the user asked for cannot be done.

    The message is one line, which names the fault and then the remedy. Longer words are
    cut, and what could control a terminal is escaped.
    """

    def __init__(self, message: str):
        words = (
            word if len(word) <= LONGEST_WORD else f"{word[: LONGEST_WORD - 3]}..."
            for word in str(message).split()
        )
        line = " ".join(words)
        super().__init__(
            line
            if line.isprintable()
            else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
        )

    def __reduce__(self) -> tuple:
        # classes derived from this one have other arguments
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


def sent_message(error: BaseException) -> str | None:
    """Return the message of a UserError that a process sent as a traceback in a text.

    PyTorch does so with errors of its processes; None for all other errors.
    """
    text = str(error)
    if "Traceback (most recent call last)" not in text:
        return None
    kinds: list[type[UserError]] = [UserError, *UserError.__subclasses__()]
    names = "|".join(f"{kind.__module__}.{kind.__name__}" for kind in kinds)
    *_, last = re.split(f"({names}): ", text)
    return last if last != text else None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def explain(error: OSError) -> str:
    """Describe a fault of the machine, with its file and the remedy."""
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
    named = (error.filename, error.filename2)  # a number is that of an open file
    names = [os.fsdecode(each) for each in named if each and not isinstance(each, int)]
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
    except (KeyboardInterrupt, Exception) as error:
        # a library that is interrupted while it is imported may raise another error
        if interrupted or isinstance(error, KeyboardInterrupt):
            print("espnet_prune: interrupted", file=sys.stderr)
            sys.exit(130)
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            sys.exit(141)
        message = sent_message(error)
        if message is None and isinstance(error, UserError):
            message = str(error)
        elif message is None and isinstance(error, OSError) and error.errno is not None:
            message = explain(error)
        if message is None:
            raise
        print(f"espnet_prune: error: {UserError(message)}", file=sys.stderr)
        sys.exit(2)


def _output_is_closed() -> bool:
    """Return whether the reader of the output, such as ``head``, has ended."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in output.poll(0)):
        return False
    # otherwise Python would fail again when it ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True

"""Errors that a user can mend, and how the commands end on them."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something the user asked for cannot be done.

    The message is one line: what was wrong, then what to do about it.
    """


def first_line(error: BaseException) -> str:
    """Give the first line of an error's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def run(main: Callable[[], None]) -> None:
    """Run a command; bad input and interruptions end it with one line on stderr.

    The exit code is 2 on a ``UserError`` and, as in shells, 130 on Ctrl-C.
    """
    try:
        main()
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"espnet_prune: error: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("espnet_prune: interrupted", file=sys.stderr)
        sys.exit(130)

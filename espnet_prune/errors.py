"""Errors that a user can correct, and how commands end with them."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something the user asked for cannot be done.

    The message is one line, which names the fault and then the remedy.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty."""
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

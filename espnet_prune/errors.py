"""Errors that a user can mend, and how the commands end on them."""

import sys
from typing import Callable


class UserError(ValueError):
    """Something the user asked for cannot be done.

    The message is one line: what was wrong, then what to do about it.
    """


def run(main: Callable[[], None]) -> None:
    """Run a command; end it with one line and exit code 2 on a ``UserError``."""
    try:
        main()
    except UserError as error:
        sys.exit(report(error))


def report(error: UserError) -> int:
    """Print the one line of ``error`` on stderr and return the exit code 2."""
    print(f"espnet_prune: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2

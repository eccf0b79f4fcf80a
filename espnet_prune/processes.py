"""Processes that share the work of a command, and end when it does."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from espnet_prune.errors import UserError


@contextlib.contextmanager
def process_pool(
    nj: int,
    start: Callable[..., None] | None = None,
    *arguments: Any,
    method: str | None = None,
) -> Iterator[ProcessPoolExecutor]:
    """Hand out a pool of processes, which is gone afterwards.

    An interruption is left to this process, which drops what nobody has begun; if it
    is killed the others end as well.

    Args:
        nj: Number of processes.
        start: Called with ``arguments`` in each of them first.
        method: How they are started, by default as ``multiprocessing`` does. Forked
            ones would hang in libraries that have started threads.

    Raises:
        UserError: One of them was killed.

    """
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(nj, context, _start, (start, *arguments))
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError(
            "one of the processes was killed, perhaps for want of memory; run it "
            "again with a smaller --nj, what is finished is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start(start: Callable[..., None] | None, *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    # otherwise it would wait for work for ever if the parent is killed
    threading.Thread(target=end_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)

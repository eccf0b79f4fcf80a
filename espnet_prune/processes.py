"""Processes that share the work of a command, and end when it does."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any

from tqdm import tqdm

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

    def end_with_parent(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    # otherwise it would wait for work for ever if the parent is killed
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=end_with_parent, args=(parent,), daemon=True).start()
    if start is not None:
        start(*arguments)


def in_parallel[Item, Result](
    function: Callable[[Item], Result],
    items: Sequence[Item],
    nj: int,
    label: str,
    start: Callable[..., None] | None = None,
    *arguments: Any,
) -> Iterator[Result]:
    """Apply a function to all items, in order, and show how far it is.

    Args:
        function: Can be imported by name, unless ``nj`` is 1.
        items: What it is applied to.
        nj: Number of processes. Few items are left to this process.
        label: Of the progress bar.
        start: Called with ``arguments`` first, in each process.

    Raises:
        UserError: A process was killed.

    """
    if nj <= 1 or len(items) < 2 * nj:
        if start is not None:
            start(*arguments)
        yield from _progress(map(function, items), len(items), label)
        return
    chunk = max(1, min(64, len(items) // (4 * nj)))
    with process_pool(nj, start, *arguments) as pool:
        results = pool.map(function, items, chunksize=chunk)
        yield from _progress(results, len(items), label)


def _progress[Result](
    results: Iterable[Result], total: int, label: str
) -> Iterable[Result]:
    """Show a bar; where there is no terminal, a line twice a minute."""
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(results, label, total, unit="file", mininterval=interval, ncols=79)

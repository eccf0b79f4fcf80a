"""Processes that share the work of a command, and end with it."""

import contextlib
import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path
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
    """Yield a pool of processes, which end afterwards.

    This process handles an interruption, and drops work that has not begun; if it is
    killed, the others end too.

    Args:
        nj: Number of processes.
        start: Function that each process first calls with ``arguments``.
        method: Start method, by default that of ``multiprocessing``. Forked processes
            would hang in libraries that have started threads.

    Raises:
        UserError: A process was killed.
    """
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(nj, context, _start, (start, *arguments))
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError(
            "one of the processes was killed, perhaps because memory was full; run it "
            "again with a smaller --nj, finished work is kept"
        ) from None
    finally:
        try:
            pool.shutdown(cancel_futures=True)
        except RuntimeError:  # it was interrupted before its thread had started
            for child in multiprocessing.active_children():
                child.terminate()


def _start(start: Callable[..., None] | None, *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    # otherwise it would wait for work forever if the parent is killed
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=end_with_parent, args=(parent,), daemon=True).start()
    if start is not None:
        start(*arguments)


def in_parallel(
    worker: Callable[..., Any],
    items: Sequence[Any],
    nj: int,
    label: str,
    *arguments: Any,
) -> Iterator[Any]:
    """Apply a worker to all items, in order, and show the progress.

    Args:
        worker: A function of one item; or a class, of which each process makes an
            instance with ``arguments``, for work that needs a model or a tokenizer.
        items: What it is called with.
        nj: Number of processes. This process does the work alone if there are few
            items.
        label: Label of the progress bar.
    """
    if nj <= 1 or len(items) < 2 * nj:
        work = worker(*arguments) if isinstance(worker, type) else worker
        yield from _progress(map(work, items), len(items), label)
        return
    chunk = max(1, min(64, len(items) // (4 * nj)))
    with process_pool(nj, _make_worker, worker, *arguments) as pool:
        results = pool.map(_work, items, chunksize=chunk)
        yield from _progress(results, len(items), label)


_worker: Callable[[Any], Any]


def _make_worker(worker: Callable[..., Any], *arguments: Any) -> None:
    global _worker
    _worker = worker(*arguments) if isinstance(worker, type) else worker


def _work(item: Any) -> Any:
    return _worker(item)


def _progress(results: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    """Show a progress bar, or without a terminal a line every 30 s."""
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(results, label, total, unit="file", mininterval=interval, ncols=79)


def name_processor() -> str:
    """Return the name of the processor, for reports of speed."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()

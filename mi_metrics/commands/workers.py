"""Work that several processes share, each of which ends with the process that started it."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

# Seconds that a process has to end by itself.
PATIENCE = 10


class WorkerError(RuntimeError):
    """A process that shares the work can't be started, or has ended before its time."""


def shared(
    work: Callable[[Any], Any],
    tasks: Iterable[Any],
    workers: int,
    prepare: Callable[[], None] | None = None,
) -> Generator[Any]:
    """Yield the result of each task, in the order of their completion.

    Args:
        work: A function of a module, which is given a task; what it raises is raised here.
        tasks: What is to be done, at least as many as there are workers.
        workers: How many processes.
        prepare: What each does first.

    Raises:
        WorkerError: If a process can't be started, or ends before its time.
    """
    # A pool is not used, because its workers outlive a first process that is killed.
    remaining, failure = iter(tasks), None
    started: list[tuple[Connection, BaseProcess]] = []
    try:
        with _without_interrupts():
            # Workers are started one by one, so that those before one that can't be started are
            # ended.
            for _ in range(workers):
                started.append(_start(work, prepare))
        busy = [pipe for pipe, _ in started]
        for pipe in busy:
            pipe.send(next(remaining))
        while busy:
            for pipe in cast("list[Connection]", wait(busy)):
                result, failure = pipe.recv()
                if failure is not None:
                    raise failure
                if (task := next(remaining, None)) is None:
                    busy.remove(pipe)
                else:
                    pipe.send(task)
                yield result
    except (EOFError, OSError) as error:
        if error is failure:
            raise
        raise WorkerError(
            f"Expected {workers} processes to share the work, but one of them could not be started "
            "or was ended."
        ) from error
    else:
        for pipe, process in started:
            # Each ends by itself when nothing more can come.
            pipe.close()
            process.join(PATIENCE)
    finally:
        for pipe, process in started:
            pipe.close()
            process.terminate()
            process.join()


def _work(pipe: Connection, work: Callable[[Any], Any], prepare: Callable[[], None] | None) -> None:
    """Answer tasks with results until the other end is closed, be it because its process was
    killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if prepare is not None:
        prepare()
    with suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = work(task), None
            except Exception as error:
                answer = None, error
            pipe.send(answer)


def _start(
    work: Callable[[Any], Any], prepare: Callable[[], None] | None
) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, work, prepare), daemon=True)
    process.start()
    theirs.close()
    return pipe, process


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C leaves alone from their first moment; it is this process's to
    answer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)

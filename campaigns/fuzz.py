"""Random calls of all that is public, for as long as is asked: ``python -m campaigns.fuzz
[--seconds N] [--seed S]``.

What is called and what must hold of it is in ``tests/fuzzing``, as for ``tests/test_fuzz.py``.
Printed are the calls of each kind by what came of them, and the first of every sort that broke a
promise, with the command that repeats it. A call that does not return in time is one of these: the
process that makes them is ended, and another goes on. Exit status 1 if there was one.
"""

import argparse
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from random import Random

import torch

from tests.fuzzing import KINDS, Call


@dataclass
class Findings:
    """What came of the calls."""

    seed: int
    tally: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: dict[str, str] = field(default_factory=dict)

    def breaks(self, kind: str, number: int, sort: str, what: str) -> None:
        """Add a call that has broken a promise."""
        self.tally[kind, "BROKEN"] += 1
        repeat = f"python -m campaigns.fuzz {kind} --seed {self.seed} --call {number}"
        self.broken.setdefault(f"{kind}, {sort}", f"{kind}, {sort}\n{what}  {repeat}")


def main() -> int:
    """Make calls until the time is up."""
    parser = argparse.ArgumentParser(prog="python -m campaigns.fuzz", description=__doc__)
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other calls")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that a call may take")
    parser.add_argument(
        "--call", type=int, help="make the one call of this number, and let its error through"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - set(KINDS):
        parser.error(f"unknown kinds: {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
    torch.set_num_threads(1)
    kinds = arguments.kinds or list(KINDS)
    if arguments.call is not None:
        for kind in kinds:
            call = made(kind, arguments.seed, arguments.call)
            print(call, call.run(), sep="\n")
        return 0
    found = watched(kinds, arguments.seed, arguments.seconds, arguments.limit)
    for kind in kinds:
        came = ", ".join(f"{what} {n}" for (k, what), n in sorted(found.tally.items()) if k == kind)
        print(f"{kind:<28} {came}")
    print(
        *found.broken.values(),
        f"{found.tally.total()} calls, {len(found.broken)} sorts of broken promises",
        sep="\n\n",
    )
    return 1 if found.broken else 0


def watched(kinds: list[str], seed: int, seconds: float, limit: float) -> Findings:
    """Have another process make calls until the time is up, and look how long each takes."""
    found, number, end = Findings(seed), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        context = get_context("spawn")
        reports, theirs = context.Pipe(duplex=False)
        process = context.Process(target=calls, args=(theirs, kinds, seed, number), daemon=True)
        process.start()
        theirs.close()
        # A process that is just starting has more to do.
        kind, number = reports.recv()
        while time.monotonic() < end:
            if not reports.poll(limit):
                call = f"  {str(made(kind, seed, number))[:600]}\n"
                found.breaks(kind, number, f"no end within {limit:g} s", call)
                number += 1
                break
            came, kind_and_number = reports.recv()
            if isinstance(came, str):
                found.tally[kind, came] += 1
            else:
                found.breaks(kind, number, *came)
            kind, number = kind_and_number
        process.kill()
        process.join()
    return found


def calls(reports: Connection, kinds: list[str], seed: int, number: int) -> None:
    """Make calls from a number on, and report of each what came and which is the next."""
    torch.set_num_threads(1)
    coming = ((kind, n) for n in count(number) for kind in kinds)
    kind, number = next(coming)
    reports.send((kind, number))
    while True:
        came: str | tuple[str, str]
        call = made(kind, seed, number)
        try:
            came = call.run()
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            file = line.filename.rpartition("/")[2]
            sort = f"{type(error).__name__} at {file}:{line.lineno}"
            came = sort, f"  {str(error)[:600]}\n  {str(call)[:600]}\n"
        kind, number = next(coming)
        reports.send((came, (kind, number)))


def made(kind: str, seed: int, number: int) -> Call:
    """Return a call of a kind, always the same for a seed and a number."""
    return KINDS[kind](Random(f"{seed}/{kind}/{number}"))


if __name__ == "__main__":
    sys.exit(main())

"""Random calls of all that is public, for as long as is asked: ``python -m campaigns.fuzz
[--seconds N] [--seed S]``.

What is called and what must hold of it is in ``tests/fuzzing``, as for ``tests/test_fuzz.py``.
Printed are the calls of each kind by what came of them, and the first of every sort that broke a
promise, with the command that repeats it. Exit status 1 if there was one.
"""

import argparse
import sys
import time
import traceback
from collections import Counter
from random import Random

import torch

from tests.fuzzing import KINDS, Call


def main() -> int:
    """Make calls until the time is up."""
    parser = argparse.ArgumentParser(prog="python -m campaigns.fuzz", description=__doc__)
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other calls")
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
    tally, broken = Counter[tuple[str, str]](), dict[str, str]()
    end, number = time.monotonic() + arguments.seconds, 0
    while time.monotonic() < end:
        for kind in kinds:
            call = made(kind, arguments.seed, number)
            try:
                tally[kind, call.run()] += 1
            except Exception as error:
                tally[kind, "BROKEN"] += 1
                line = traceback.extract_tb(error.__traceback__)[-1]
                file = line.filename.rpartition("/")[2]
                sort = f"{kind}, {type(error).__name__} at {file}:{line.lineno}"
                repeat = f"python -m campaigns.fuzz {kind} --seed {arguments.seed} --call {number}"
                broken.setdefault(
                    sort, f"{sort}\n  {str(error)[:600]}\n  {str(call)[:600]}\n  {repeat}"
                )
        number += 1
    for kind in kinds:
        came = ", ".join(f"{what} {n}" for (k, what), n in sorted(tally.items()) if k == kind)
        print(f"{kind:<28} {came}")
    print(
        *broken.values(),
        f"{sum(tally.values())} calls, {len(broken)} sorts of broken promises",
        sep="\n\n",
    )
    return 1 if broken else 0


def made(kind: str, seed: int, number: int) -> Call:
    """Return a call of a kind, always the same for a seed and a number."""
    return KINDS[kind](Random(f"{seed}/{kind}/{number}"))


if __name__ == "__main__":
    sys.exit(main())

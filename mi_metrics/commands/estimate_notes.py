"""What `mi-metrics estimate` notes about doubtful values: one advice for each kind of doubt, and
which of the values of a pair to rely on.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from mi_metrics.commands.column_names import label
from mi_metrics.commands.estimate_lines import Estimate
from mi_metrics.commands.facts import Facts
from mi_metrics.functional.cautions import Kind
from mi_metrics.settings import FORMER_NAMES

# With fewer rows there is no value to rely on, whatever else there is to be noted.
LEAST_ROWS = 30
# Values that differ by so many standard errors, by this share of the larger, and by so many nats
# or bits, disagree.
ERRORS, SHARE, NATS = 5.0, 0.2, 0.05

# What is wrong, and what can be done about it with the same estimator. Which other one to rely on
# is said once for a pair, from what all of them have shown: so no advice leads back to another.
ADVICE: dict[Kind, str] = {
    "coarse grid": "the cells of the grid are wider than the bins, as heavy tails, far values or "
    "very many rows make it, so MI may be too small: raise --resolution, or replace the columns by "
    "logarithms or ranks, which does not change MI",
    "copies": "many rows are exact copies of others, which make MI far too large: remove them if "
    "they are mistakes",
    "far samples": "a few far values hide the rest from the neighbours, so MI may be too small: "
    "replace the columns by logarithms or ranks (--standardize rank), which does not change MI",
    "few values": "few distinct values, where continuous ones are expected",
    "labels": "whole numbers of few values are taken for quantities: if they are labels, pass "
    "--discrete with their column",
    "narrow kernel": "the kernel is narrower than the grid resolves, so MI is too small: raise "
    "--resolution",
    "oversmoothed": "the kernel is wider than what ties the columns, as for waves, circles, "
    "clusters or heavy tails, so MI is mostly too small",
    "rising": "twice the bins would show more, so MI is too small",
    "shared bins": "few distinct values tell more than the bins that they share, so MI is too "
    "small: if they are labels, pass --discrete with their column",
    "too few": "too few rows, or all labels different, so there is no value",
    "undersampled": "many rows are alone in their cell, so they are too few for the value, which "
    "is mostly chance",
    "unreliable": "the value still changes with the number of rows, or is below a bound found "
    "otherwise",
    "wide kernel": "a few far values, or many equal ones, set the width of the kernel, so the "
    "value says little about the rest",
}
# What a value of each estimator is worth where nothing speaks against it.
REASONS = {
    "knn": "it has no bins or kernels that blur a sharp dependence",
    "bins": "it takes any values, also few and repeated ones",
    "kde": "nothing speaks against it",
}
ORDER = ("knn", "bins", "kde")


def remarks(
    kinds: Sequence[tuple[Kind, str]], columns: Sequence[str], facts: dict[str, Facts]
) -> Iterator[tuple[str, str]]:
    """Yield what is noted about the doubts of one value, each with what it is about."""
    both = " and ".join(map(label, columns))
    for kind, message in kinds:
        if kind == "few values":
            few = [(name, facts[name].distinct) for name in columns if name in facts]
            counted = [
                (name, values) for name, values in few if values is not None and len(values) > 1
            ]
            least = sorted(counted, key=lambda each: len(each[1]))[:1]
            for name, values in least:
                yield (
                    label(name),
                    f"{len(values)} distinct values only, where continuous ones are expected",
                )
            if least:
                continue
        yield both, ADVICE.get(kind) or " ".join(message.split())


def verdicts(found: Sequence[Estimate]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yield for each pair with a doubt or a disagreement the estimators, the pair, and which value
    to rely on.
    """
    pairs: dict[tuple[str, str], list[Estimate]] = {}
    tried: dict[tuple[str, str], set[str]] = {}
    for e in found:
        if e.estimator in FORMER_NAMES:
            continue
        tried.setdefault((e.x, e.y), set()).add(e.estimator)
        if not math.isnan(e.mi):
            pairs.setdefault((e.x, e.y), []).append(e)
    for pair, lines in pairs.items():
        both = " and ".join(map(label, pair))
        names = tuple(e.estimator for e in lines)
        if lines[0].n < LEAST_ROWS:
            continue
        trusted = [
            e.estimator
            for e in sorted(lines, key=lambda e: ORDER.index(e.estimator))
            if not e.cautions
        ]
        doubtful = tuple(e.estimator for e in lines if e.cautions)
        apart = _disagree(lines)
        if not doubtful and not apart:
            continue
        about = "the values differ beyond chance" if apart else ""
        if trusted:
            rely = f"rely on {trusted[0]}: {_reason(trusted[0], lines)}"
            yield names if apart else doubtful, both, f"{about}; {rely}" if about else rely
        elif more := [name for name in ORDER if name not in tried[pair]]:
            yield doubtful, both, f"compare with --estimator {' '.join(more)}"
        else:
            text = "no estimator is free of doubt here: follow their notes, or take more rows"
            yield doubtful, both, text


def _reason(name: str, lines: Sequence[Estimate]) -> str:
    """Return why to rely on an estimator."""
    (mine,) = (e for e in lines if e.estimator == name)
    alike = [e.estimator for e in lines if e is not mine and not _apart(mine, e, lines)]
    if alike and name == "knn" and mine.mi < max(e.mi for e in lines):
        return f"{joined(alike)} agree{'s' * (len(alike) == 1)} with it"
    return REASONS[name] if name != "knn" or mine.mi > 0 else "nothing speaks against it"


def _disagree(lines: Sequence[Estimate]) -> bool:
    return any(_apart(a, b, lines) for a, b in combinations(lines, 2))


def _apart(a: Estimate, b: Estimate, lines: Sequence[Estimate]) -> bool:
    """Whether two values differ beyond chance."""
    known = [e for e in lines if e.standard_error is not None]
    if not known:
        return False
    # Where no error was estimated, that of another estimator tells its size.
    errors = [
        e.standard_error
        if e.standard_error is not None
        else (known[0].standard_error or 0.0) * math.sqrt(known[0].n / e.n)
        for e in (a, b)
    ]
    chance = ERRORS * math.hypot(*errors)
    return abs(a.mi - b.mi) > max(chance, SHARE * max(abs(a.mi), abs(b.mi)), NATS)


def column_notes(facts: dict[str, Facts]) -> Iterator[str]:
    """Yield notes about the numbers of columns."""
    for name, column in facts.items():
        if column.valid == 0 and column.missing:
            yield f"{label(name)}: all values are missing"
        elif fill := column.fill_value():
            value, share = fill
            yield (
                f"{label(name)}: {value:.10g} in {100 * share:.2g} % of the rows lies far from all "
                f"others; if it marks missing values, pass --missing {value:.10g}"
            )


def grouped(found: Iterable[tuple[tuple[str, ...], str, str]]) -> Iterator[str]:
    """Yield each note once, with the estimators and the columns or pairs that it is about."""
    subjects: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for estimators, subject, text in found:
        about = subjects.setdefault((text, estimators), [])
        if subject not in about:
            about.append(subject)
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (text, estimators), listed in subjects.items():
        names = together.setdefault((text, tuple(listed)), [])
        names += [name for name in estimators if name not in names]
    for (text, listed_once), names in together.items():
        more = f" and {len(listed_once) - 3} more" if len(listed_once) > 4 else ""
        shown = "; ".join(listed_once[: 3 if more else None])
        yield f"{joined(names)}, {shown}{more}: {text}"


def joined(names: Sequence[str]) -> str:
    """Return names as a list in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def notes(found: Sequence[Estimate]) -> Iterator[str]:
    """Yield the notes about values."""
    single = [((e.estimator,), subject, text) for e in found for subject, text in e.notes]
    yield from grouped(single)
    yield from grouped(verdicts(found))

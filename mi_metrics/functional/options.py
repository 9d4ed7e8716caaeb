"""The options of every call: their names, their checks, and the wordings of errors about them."""

import difflib
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Collection, Sequence
from numbers import Integral, Real
from types import ModuleType
from typing import Any, Literal, ParamSpec, TypeVar, get_args

from torch import Tensor

# -- names -----------------------------------------------------------------------------------------

Unit = Literal["nats", "bits"]
UNITS: tuple[Unit, ...] = get_args(Unit)

Normalization = Literal[
    "none", "arithmetic", "geometric", "min", "max", "joint", "studholme", "adjusted"
]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)

BiasCorrection = Literal["none", "miller_madow", "grassberger"]
BIAS_CORRECTIONS: tuple[BiasCorrection, ...] = get_args(BiasCorrection)
TableCorrection = Literal["auto", "none", "miller_madow", "grassberger"]
TABLE_CORRECTIONS: tuple[TableCorrection, ...] = get_args(TableCorrection)
GaussianCorrection = Literal["none", "analytic"]
GAUSSIAN_CORRECTIONS: tuple[GaussianCorrection, ...] = get_args(GaussianCorrection)

Interval = tuple[float, float]
# The ranges of x and y.
Ranges = tuple[Interval, Interval]
ValueRange = Interval | Ranges | None
NumBins = int | tuple[int, int] | Literal["auto"]

BinKind = Literal["auto", "uniform", "quantile", "values"]
BIN_KINDS: tuple[BinKind, ...] = get_args(BinKind)
Binning = BinKind | tuple[BinKind, BinKind]

SoftKernel = Literal["linear", "cubic"]
SOFT_KERNELS: tuple[SoftKernel, ...] = get_args(SoftKernel)
Kernel = Literal["hard", "linear", "cubic"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)

BandwidthRule = Literal["silverman", "scott"]
BANDWIDTH_RULES: tuple[BandwidthRule, ...] = get_args(BandwidthRule)
Bandwidth = float | tuple[float, float] | BandwidthRule

Algorithm = Literal["ksg1", "ksg2"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)

Scaling = Literal["rank", "joint"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)
Standardize = bool | Scaling

NanStrategy = Literal["error", "ignore"]
NAN_STRATEGIES: tuple[NanStrategy, ...] = get_args(NanStrategy)

PValueMethod = Literal["g", "permutation"]
P_VALUE_METHODS: tuple[PValueMethod, ...] = get_args(PValueMethod)

GapKind = Literal["mig", "mig_sup", "modularity"]
GAP_KINDS: tuple[GapKind, ...] = get_args(GapKind)

Pool = Literal["image", "batch"]
POOLS: tuple[Pool, ...] = get_args(Pool)
Reduction = Literal["none", "mean", "sum"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)

# A gibibyte of counts. Far below it, samples that fill a table are hard to find.
MAX_CELLS = 2**27

# So many random tables or permutations take hours of the smallest ones, and more never end.
MOST_REPETITIONS = 10**8

# What other libraries and the literature call an option, and how it is called here.
ALIASES: dict[str, tuple[str, ...]] = {
    "algo": ("algorithm",),
    "bandwidths": ("bandwidth",),
    "base": ("unit",),
    "bias": ("bias_correction",),
    "bins": ("num_bins", "grid_size"),
    "bw": ("bandwidth",),
    "bw_method": ("bandwidth",),
    "classes": ("discrete_y", "num_conditions"),
    "clip": ("clip_quantile",),
    "correction": ("bias_correction",),
    "discrete": ("discrete_y",),
    "discrete_features": ("discrete_y",),
    "discrete_target": ("discrete_y",),
    "estimator": ("algorithm",),
    "h": ("bandwidth",),
    "k": ("n_neighbors",),
    "log_base": ("unit",),
    "method": ("algorithm", "bias_correction"),
    "n_bins": ("num_bins", "grid_size"),
    "nan_policy": ("nan_strategy",),
    "nbins": ("num_bins", "grid_size"),
    "neighbors": ("n_neighbors",),
    "normalized": ("normalization",),
    "num_classes": ("num_conditions", "num_bins"),
    "num_neighbors": ("n_neighbors",),
    "output": ("num_outputs",),
    "random_state": ("seed",),
    "range": ("value_range",),
    "sample_weight": ("weights",),
    "scale": ("standardize",),
    "sigma": ("bandwidth",),
    "sigma_ratio": ("bandwidth",),
    "strategy": ("binning",),
    "target": ("y",),
    "preds": ("x",),
}

P = ParamSpec("P")
R = TypeVar("R")


# -- checks ----------------------------------------------------------------------------------------


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse an option that is not one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"Expected `{name}` to be one of {', '.join(map(repr, choices))}, but got {value!r}."
        )


def check_flag(name: str, value: Any) -> bool:
    """Return a bool; refuse everything else, 0 and 1 included."""
    if not isinstance(value, bool):
        raise TypeError(f"Expected `{name}` to be True or False, but got {value!r}. Pass a bool.")
    return value


def check_integer(name: str, value: Any, least: int) -> int:
    """Return a whole number of at least ``least``; refuse everything else, ``True`` and ``2.0``
    included.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"Expected `{name}` to be an int, but got {value!r} of type {type(value).__name__}. "
            f"Pass a whole number of at least {least}."
        )
    if value < least:
        raise ValueError(f"Expected `{name}` to be at least {least}, but got {value}.")
    return int(value)


def check_repetitions(name: str, value: Any, least: int = 1) -> int:
    """Return how often chance is asked; refuse a number whose work would never end."""
    number = check_integer(name, value, least)
    if number > MOST_REPETITIONS:
        raise ValueError(
            f"Expected `{name}` to be at most 10**8, but got {number}. More would take days, for "
            "digits that say nothing."
        )
    return number


def check_seed(seed: Any) -> int:
    """Return a seed that every generator takes; refuse others."""
    number = check_integer("seed", seed, 0)
    if number >= 2**63:
        raise ValueError(f"Expected `seed` to be below 2**63, but got {number}. Use seed % 2**63.")
    return number


def check_number(name: str, value: Any) -> float:
    """Return a finite real number as float; refuse everything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"Expected `{name}` to be a number, but got {value!r} of type {type(value).__name__}. "
            "Pass an int or a float."
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"Expected `{name}` to be finite, but got {value}.")
    return number


def check_cells(what: str, cells: int, most: int = MAX_CELLS) -> None:
    """Refuse states that hardly any memory holds, before asking for it; ``what`` names the
    arguments and values.
    """
    if cells > most:
        gibibytes = -(-8 * cells >> 30)
        raise ValueError(
            f"Expected what fits in {most >> 27} GiB, 2**{most.bit_length() - 1} numbers, but got "
            f"{what}, which takes {gibibytes} GiB. Use fewer."
        )


def from_nats(value: Tensor, unit: str) -> Tensor:
    """Return a quantity in nats in the unit that is asked for."""
    check_choice("unit", unit, UNITS)
    return value / math.log(2) if unit == "bits" else value


# -- names of keywords -----------------------------------------------------------------------------


def hints_keywords(function: Callable[P, R], upstream: Collection[str] = ()) -> Callable[P, R]:
    """Refuse unknown keyword arguments by naming the one that was meant.

    A decorator for functions and for ``__init__``, where the class of the object is named.

    Args:
        function: What is called.
        upstream: Names that ``**kwargs`` of the function may hold.
    """
    names = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY)
        and name != "self"
    ]
    known = frozenset((*names, *upstream))

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if not known.issuperset(kwargs):
            unknown = next(name for name in kwargs if name not in known)
            is_class = function.__name__ == "__init__"
            raise TypeError(
                f"Expected arguments that {_owner(checked, args)} has, but got `{unknown}`. "
                + _hint(unknown, names, is_class=is_class)
            )
        return function(*args, **kwargs)

    return checked


def _owner(function: Callable[..., Any], args: Sequence[Any]) -> str:
    """Return the name of a function, or of the class whose ``__init__`` it is, or of its method."""
    name = function.__qualname__
    if args and getattr(type(args[0]), function.__name__, None) is function:
        name = f"{type(args[0]).__name__}.{function.__name__}"  # which may inherit it
    return name.removesuffix(".__init__")


def _hint(unknown: str, names: Sequence[str], *, is_class: bool) -> str:
    if unknown == "mask":
        if is_class:
            return "Give it with the samples, beside `x` and `y`."
        if "weights" in names:
            return "Give `weights`, which are 0 where the mask is False."
        return "Select the samples first: x[mask] and y[mask]."
    meant = {name: name for name in names}
    for alias, targets in ALIASES.items():
        if known := [name for name in targets if name in names]:
            meant[alias] = known[0]
    if near := difflib.get_close_matches(unknown, meant, 1):
        return f"Did you mean `{meant[near[0]]}`?"
    return f"It has {', '.join(f'`{name}`' for name in names)}."


# -- optional dependencies -------------------------------------------------------------------------

# Where the name in the package index is not that of the module.
DISTRIBUTIONS = {
    "lightning": "Lightning",
    "pyarrow": "PyArrow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}


class MissingExtraError(ModuleNotFoundError):
    """An optional dependency is not installed; the message says how to install it."""


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import a module of an optional dependency.

    Args:
        module: Its full name.
        extra: The extra of this package that installs it.
        what: What needs it, in the plural, for the message.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        # What the dependency itself lacks is a matter of its own.
        if error.name is None or error.name.partition(".")[0] != root:
            raise
        raise MissingExtraError(
            f"{what} need {DISTRIBUTIONS.get(root, root)}. Install it with: "
            f'pip install "mi-metrics[{extra}]"',
            name=error.name,
        ) from error

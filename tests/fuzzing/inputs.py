"""Random tensors and arguments: mostly such as users have, often at the edge of what is allowed,
and some nonsense.
"""

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
RARE = [torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64]
RARE += [getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)]


def _is_supported(dtype: torch.dtype) -> bool:
    """Say whether this version of PyTorch fills tensors of a dtype and selects from them."""
    try:
        torch.ones(2, dtype=dtype)[torch.tensor([True, False])]
    except RuntimeError:
        return False
    return True


RARE = [dtype for dtype in RARE if _is_supported(dtype)]

SIZES = (1, 2, 3, 4, 5, 8, 17, 64, 150)
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

NONSENSE: tuple[Any, ...] = (
    None,
    -1,
    0,
    1,
    2.5,
    True,
    "x",
    "",
    b"x",
    (),
    (1,),
    (1, 2, 3),
    [3, "a"],
    ["auto", "auto"],
    {},
    math.nan,
    math.inf,
    1e308,
    2**40,
    10**30,
    10**400,
    1j,
    ((0, 1),),
    ((1, 0), (0, 1)),
    ((0, 1), (0, 1), (0, 1)),
    (0, math.inf),
    (math.nan, 1),
    (5e-324, 1e-323),
    (0.0, 0.0),
    np.int64(5),
    np.float32(0.5),
    np.array([1.0, 2.0]),
    torch.tensor(3),
    torch.tensor([0.0, 1.0]),
    object,
)


def size(random: Random) -> int:
    return random.choice(SIZES)


def shape(random: Random) -> tuple[int, ...]:
    """Return the shape of a batch of samples (..., N), now and then of none."""
    if random.random() < 0.05:
        return random.choice([(), (0,), (3, 0), (0, 5), (2, 0, 5)])
    return (*random.choice([(), (), (), (1,), (2,), (3, 2)]), size(random))


def dtype(random: Random) -> torch.dtype:
    kind = random.random()
    return random.choice(FLOATS if kind < 0.7 else INTEGERS if kind < 0.95 else RARE)


def numbers(random: Random, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
    """Return float64 numbers of one of many distributions; some depend on others that are given."""
    generator = torch.Generator().manual_seed(random.getrandbits(31))
    z = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    if like is not None and random.random() < 0.6:
        like = like.to(torch.float64) if not like.is_complex() else like.real.double()
        like = like.nan_to_num(0.0, 0.0, 0.0)
        return random.choice([like.clone(), -like, like + z, like.round(), like.abs(), z * like])
    kind = random.randrange(15)
    if kind < 4:
        return z * 10.0 ** random.choice([-1, 0, 1, 2])
    scale = 10.0 ** random.randint(-320, 307)
    spots = torch.rand(tuple(shape), generator=generator) < 0.2
    match kind:
        case 4:
            return z * scale
        case 5:
            return z + 10.0 ** random.randint(0, 17)
        case 6:
            return (3 * z).round()
        case 7:
            return (z > 0).double() * scale
        case 8:
            return torch.full_like(
                z, random.choice([0.0, -0.0, 0.1, -7.0, 1e300, 5e-324, 2.0**53 + 2])
            )
        case 9:
            return (5 * z).round() * 5e-324
        case 10:
            return z.sign() * (1.7e308 - 1e307 * z.abs())
        case 11:
            return torch.where(spots, scale, z)
        case 12:
            return torch.where(spots, z, 0.0)
        case 13:
            return 2.0**63 - (z.abs() * 3000).round() * 1024
        case _:
            return torch.arange(z.numel(), dtype=torch.float64).view(z.shape)


def cast(values: Tensor, to: torch.dtype) -> Tensor:
    if to == torch.bool:
        return values > 0
    if to.is_complex:
        return values.to(to)
    if not to.is_floating_point:
        info = torch.iinfo(to)
        # What float64 has instead of 2**63 - 1 is 2**63.
        return values.nan_to_num(0.0).clamp(info.min, info.max * (1 - 2.0**-53)).to(to)
    return values.to(to)


def spoil(random: Random, values: Tensor) -> Tensor:
    """Put NaN or infinities among numbers."""
    if values.numel() and values.dtype in FLOATS:
        values = values.clone(memory_format=torch.contiguous_format)
        for _ in range(random.randint(1, 3)):
            values.view(-1)[random.randrange(values.numel())] = random.choice(
                [math.nan, math.inf, -math.inf]
            )
    return values


def laid_out(random: Random, v: Tensor) -> Tensor:
    """Return the same numbers in another layout of memory, or as another kind of tensor."""
    match random.randrange(16):
        case 0 if v.ndim >= 2:
            return v.mT.contiguous().mT
        case 1:
            return torch.stack([v, torch.zeros_like(v)], -1)[..., 0]
        case 2 if v.ndim >= 1:
            return torch.cat([v[:1], v])[1:]
        case 3 if v.ndim == 4:
            return v.contiguous(memory_format=torch.channels_last)
        case 4 if v.dtype in FLOATS:
            return v.clone().requires_grad_()
        case 5 if v.dtype in FLOATS:
            return torch._neg_view(-v)
        case 6:
            with torch.inference_mode():
                return v.clone()
        case 7 if v.dtype in FLOATS:
            return torch.nn.Parameter(v.clone(), requires_grad=False)
        case 8 if v.ndim >= 1 and v.shape[-1] > 0:
            return v[..., :1].expand_as(v)
        case 9 if v.ndim >= 3:
            return v.permute(*range(v.ndim)[::-1]).contiguous().permute(*range(v.ndim)[::-1])
        case 10 if random.random() < 0.1 and v.dtype in (torch.float32, torch.float64):
            return v.to_sparse()
    return v


def tensor(
    random: Random, shape: Sequence[int], like: Tensor | None = None, dtypes: Any = dtype
) -> Tensor:
    values = cast(numbers(random, shape, like), dtypes(random))
    if random.random() < 0.08:
        values = spoil(random, values)
    values = laid_out(random, values)
    where = "meta" if random.random() < 0.01 else random.choice(DEVICES)
    return values if where == "cpu" or values.layout != torch.strided else values.to(where)


def pair(random: Random, shape: Sequence[int]) -> tuple[Any, Any]:
    """Return x and y; now and then of different shapes, or no tensors at all."""
    x = tensor(random, shape)
    y = tensor(
        random, shape, None if x.is_meta or x.is_sparse or x.numel() == 0 else x.detach().cpu()
    )
    if x.requires_grad or y.requires_grad:
        # Torch itself keeps inference tensors out of graphs.
        x, y = (v.clone() if v.is_inference() else v for v in (x, y))
    if random.random() < 0.03:
        y = tensor(random, random.choice([tuple(shape)[:-1], (*shape, 1), (1, *shape), (3,)]))
    if random.random() < 0.02:
        return random.choice(
            [(x.tolist() if not x.is_meta and not x.is_sparse else 3, y), (x, None), (1.0, y)]
        )
    return x, y


def arguments(random: Random, options: dict[str, Sequence[Any]]) -> dict[str, Any]:
    """Return some keyword arguments, each of its own choices, or nonsense now and then."""
    chosen = {}
    for name, choices in options.items():
        if random.random() < 0.4:
            chosen[name] = (
                random.choice(choices) if random.random() < 0.97 else random.choice(NONSENSE)
            )
    return chosen


def mask(random: Random, shape: Sequence[int]) -> Any:
    """Return which samples count: mostly some, now and then all, none, or what is not a mask."""
    if random.random() < 0.04:
        return random.choice([*NONSENSE, torch.ones(tuple(shape)), torch.ones(7, dtype=torch.bool)])
    generator = torch.Generator().manual_seed(random.getrandbits(31))
    share = random.choice((0.0, 0.3, 0.8, 1.0))
    return torch.rand(tuple(shape), generator=generator) < share


RANGES = (
    None,
    None,
    (-1, 1),
    (0.0, 255.0),
    ((-3, 3), (-10, 60)),
    (-1e308, 1e308),
    (0, 1e-320),
    (1e6, 1e6 + 1),
)
NORMALIZATIONS = ("none", "arithmetic", "geometric", "min", "max", "joint", "studholme", "adjusted")
UNITS = ("nats", "bits")
BINNINGS = (
    "auto",
    "uniform",
    "quantile",
    "values",
    ("values", "quantile"),
    ["uniform", "values"],
    ("auto", "uniform"),
    ("auto", "auto"),
    ("quantile", "values", "auto"),
)
BANDWIDTHS = ("silverman", "scott", 0.3, (0.25, 0.4), 1e-300, 1e300, [1, 2])
BINS = (1, 2, 5, 32, (5, 8), [3, 70], (1, 6), "auto", 2**16)
GRIDS = (2, 3, 4, 16, 64)

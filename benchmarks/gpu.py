"""What a GPU takes for the three jobs, beside its peers there: ``python -m benchmarks --device
cuda``.

Times are medians between CUDA events, after calls that compile and warm up. Memory is the most that
PyTorch held beyond what was there before.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Row, at_most, missing, peer
from mi_metrics import BinnedMutualInformation, KDEMutualInformationLoss, MutualInformationLoss
from mi_metrics.functional import (
    binned_joint,
    kde_mutual_information,
    knn_mutual_information,
    mutual_information_matrix,
)
from mi_metrics.kernels import gpu

TABLES = (10**6, 10**7, 10**8)
# Shape, and the most of MONAI's time.
IMAGES: dict[str, tuple[tuple[int, ...], float]] = {
    "8 x 1 x 32 x 32": ((8, 1, 32, 32), 1),
    "64³": ((1, 1, 64, 64, 64), 1 / 2),
    "32 x 3 x 224 x 224": ((32, 3, 224, 224), 1 / 10),
    "256³": ((1, 1, 256, 256, 256), 1 / 15),
}
# Pairs, samples, coordinates of x and of y, and the most milliseconds a pair.
NEIGHBORS: tuple[tuple[int, int, int, float | None], ...] = (
    (1, 4900, 1, 1.0),
    (64, 4900, 1, 0.2),
    (1, 10**5, 1, None),
    (1, 10**6, 1, 25.0),
    (1, 10**5, 3, 60.0),
)
COLUMNS = (64, 10**5)
LIMITS = (-4.0, 4.0)


def milliseconds(call: Callable[[], Any], device: torch.device, repeat: int = 7) -> float:
    """Return the median time of a call on a GPU."""
    times = []
    with torch.cuda.device(device):
        for _ in range(2):
            call()
        for _ in range(repeat):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    return median(times)


def held(call: Callable[[], Any], device: torch.device) -> int:
    """Return the most bytes that a call held at once beyond those before it."""
    call()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def _gaussian(device: torch.device, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    x, noise = torch.randn(2, *shape, generator=generator, device=device)
    return x, 0.6 * x + 0.8 * noise


def _count(x: Tensor, y: Tensor, bins: int) -> Tensor:
    """Count as one writes it by hand."""
    (lo, hi), last = LIMITS, bins - 1
    a, b = (((v - lo) * bins / (hi - lo)).floor().clamp(0, last).long() for v in (x, y))
    return (a * bins + b).bincount(minlength=bins * bins).view(bins, bins)


def _tables(device: torch.device) -> Iterator[Row]:
    for n in TABLES:
        x, y = _gaussian(device, n)
        ours = milliseconds(lambda x=x, y=y: binned_joint(x, y, 64, value_range=LIMITS), device)
        what = f"hard table, {n:.0e} samples, 64 bins"
        yield at_most(f"{what}, ms", ours, {10**7: 0.3, 10**8: 2.0}.get(n, 1.0), " ms")
        hand = milliseconds(lambda x=x, y=y: _count(x, y, 64), device)
        yield at_most(f"{what}, of torch.bincount's time", ours / hand, 1)


def _updates(device: torch.device) -> Iterator[Row]:
    for n in (1024, TABLES[0], TABLES[-1]):
        x, y = _gaussian(device, n)
        for options in ({"num_bins": 64, "value_range": LIMITS}, {}):
            metric = BinnedMutualInformation(**options).to(device)  # type: ignore[arg-type]
            took = milliseconds(lambda x=x, y=y, m=metric: m.update(x, y), device)
            known = "known" if options else "unknown"
            yield Row(f"update, {n:.0e} samples, {known} range", f"{took:.4g} ms", "", None)


def _peers() -> dict[str, Callable[[Tensor, Tensor], Tensor] | None]:
    monai, kornia = peer("monai.losses"), peer("kornia.losses")
    found: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {}
    for kernel in ("gaussian", "b-spline"):
        loss = monai and monai.GlobalMutualInformationLoss(kernel_type=kernel, num_bins=32)
        found[f"MONAI ({kernel})"] = loss
    found["kornia"] = kornia and _kornia(kornia)
    return found


def _kornia(kornia: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        if x.ndim == 5:
            return kornia.MILossFromRef3D(y[0, 0], num_bins=32)(x[0, 0])
        return kornia.MILossFromRef2D(y[:, 0], num_bins=32)(x[:, 0]).mean()

    return loss


def _losses(device: torch.device) -> Iterator[Row]:
    loss = MutualInformationLoss(32)
    for name, (shape, most) in IMAGES.items():
        generator = torch.Generator(device).manual_seed(0)
        x, noise = torch.rand(2, *shape, generator=generator, device=device)
        y = 0.8 * (1 - x) ** 2 + 0.2 * noise
        x.requires_grad_()

        def both(value: Callable[[Tensor, Tensor], Tensor], x: Tensor = x, y: Tensor = y) -> None:
            value(x, y).backward()
            x.grad = None

        ours, memory = milliseconds(lambda: both(loss), device), held(lambda: both(loss), device)
        what = f"loss, {name}, forward and backward"
        yield Row(what, f"{ours:.4g} ms, {memory / 2**20:.4g} MiB", "", None)
        for other, theirs in _peers().items():
            if theirs is None:
                yield missing(f"{what}, against {other}", other.split()[0])
                continue
            try:
                took = milliseconds(lambda theirs=theirs: both(theirs), device, 3)
                more = held(lambda theirs=theirs: both(theirs), device)
            # Another release of a peer, or a card too small for it.
            except Exception as error:
                yield Row(f"{what}, against {other}", f"not run: {_words(error)}", "", None)
                continue
            bound = most if "gaussian" in other else 1.0
            yield at_most(f"{what}, of the time of {other}", ours / took, bound)
            yield at_most(f"{what}, of the memory of {other}", memory / max(1, more), 1)


def _densities(device: torch.device) -> Iterator[Row]:
    x, y = _gaussian(device, 64, 4900)
    took = milliseconds(lambda: kde_mutual_information(x, y), device) / 64
    yield at_most("kernel densities, 64 pairs of 4900, a pair", took, 0.2, " ms")
    x = torch.rand(8, 1, 32, 32, device=device).requires_grad_()
    y, loss = x.detach().square(), KDEMutualInformationLoss()
    took = milliseconds(lambda: loss(x, y).backward(), device)
    yield Row("density loss, 8 x 1 x 32 x 32", f"{took:.4g} ms", "", None)


def _neighbors(device: torch.device) -> Iterator[Row]:
    for pairs, n, dim, most in NEIGHBORS:
        x, y = _gaussian(device, pairs, n, dim)
        took = milliseconds(lambda x=x, y=y: knn_mutual_information(x, y), device, 3) / pairs
        what = f"nearest neighbours, {pairs} x {n:.0e}, {dim} + {dim} coordinates, a pair"
        if most is None:
            yield Row(what, f"{took:.4g} ms", "", None)
        else:
            yield at_most(what, took, most, " ms")


def _matrix(device: torch.device) -> Iterator[Row]:
    columns, n = COLUMNS
    x = torch.randn(n, columns, generator=torch.Generator(device).manual_seed(0), device=device)
    took = milliseconds(lambda: mutual_information_matrix(x), device, 1)
    yield Row(f"matrix of {columns} columns of {n:.0e} rows", f"{took:.4g} ms", "", None)


def _device(device: torch.device) -> Iterator[Row]:
    major, minor = torch.cuda.get_device_capability(device)
    name = f"{torch.cuda.get_device_name(device)}, sm_{major}{minor}, CUDA {torch.version.cuda}"
    triton = peer("triton")
    yield Row("device", name, "", None)
    yield Row("PyTorch", torch.__version__, "", None)
    yield Row("Triton", triton.__version__ if triton else "not installed", "", None)


def _words(error: Exception) -> str:
    """Return the class and the first line of an error."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


SUITES: dict[str, Callable[[torch.device], Iterator[Row]]] = {
    "device": _device,
    "tables": _tables,
    "updates": _updates,
    "losses": _losses,
    "densities": _densities,
    "neighbors": _neighbors,
    "matrix": _matrix,
}


def suites(device: torch.device) -> dict[str, Callable[[], list[Row]]]:
    """Return the suites on a device by name."""
    return {name: partial(_whole, suite, device) for name, suite in SUITES.items()}


def _whole(suite: Callable[[torch.device], Iterator[Row]], device: torch.device) -> list[Row]:
    """Return the rows of a suite, as far as it comes, and whether kernels have served so far: one
    that failed has left its work to plain PyTorch.
    """
    found = []
    with warnings.catch_warnings():
        # The peers' own, and cautions about what is drawn here.
        warnings.simplefilter("ignore")
        try:
            for row in suite(device):
                found.append(row)
        # What a card of another kind says; the other suites may run there.
        except Exception as error:
            found.append(Row("the rest", f"failed: {_words(error)}", "", False))
            torch.cuda.empty_cache()
    found.append(Row("kernels", gpu.status(), "", gpu.load() is None and not gpu.failures()))
    return found

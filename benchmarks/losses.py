"""The loss against MONAI, kornia and SimpleITK: time forward and backward, transient memory, time
of the value.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.timing import Row, at_most, missing, peer, ratio, seconds, transient_bytes
from mi_metrics import KDEMutualInformationLoss, MutualInformationLoss

SHAPES = {"64 x 64 x 64": (1, 1, 64, 64, 64), "4 x 1 x 256 x 256": (4, 1, 256, 256)}
BINS = 32


def rows() -> list[Row]:
    """Run the suite."""
    with warnings.catch_warnings():
        # The warnings are the peers' own; what they compute is not touched.
        warnings.simplefilter("ignore")
        return [
            *(row for name in SHAPES for row in _training(name)),
            _patch(),
            *_value(),
            *_densities(),
            _large(),
        ]


def _pair(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(SHAPES[name], generator=generator)
    return x, 0.8 * (1 - x) ** 2 + 0.2 * torch.rand(SHAPES[name], generator=generator)


def _peers(y: Tensor) -> dict[str, Callable[[Tensor], Tensor] | None]:
    """Return the peers' losses of x against y."""
    monai, kornia = peer("monai.losses"), peer("kornia.losses")
    found: dict[str, Callable[[Tensor], Tensor] | None] = {}
    for kernel in ("b-spline", "gaussian"):
        name = f"MONAI GlobalMutualInformationLoss ({kernel})"
        loss = monai and monai.GlobalMutualInformationLoss(kernel_type=kernel, num_bins=BINS)
        found[name] = loss and (lambda x, loss=loss: loss(x, y))
    name = "MILossFromRef3D" if y.ndim == 5 else "MILossFromRef2D"
    # A single volume or a batch of images is passed as it is: kornia's leading dimensions are its
    # batch.
    flat = (lambda v: v[0, 0]) if y.ndim == 5 else (lambda v: v[:, 0])
    loss = kornia and getattr(kornia, name)(flat(y), num_bins=BINS)
    found[f"kornia {name}"] = loss and (lambda x: loss(flat(x)).mean())
    return found


def _training(name: str) -> list[Row]:
    x, y = _pair(name)
    x.requires_grad_()
    loss = MutualInformationLoss(BINS, value_range=(0, 1))
    found = []
    for other, theirs in _peers(y).items():
        what = f"{name}, {BINS} bins, forward and backward, against {other}"
        if theirs is None:
            found.append(missing(what, other.split()[0]))
            continue

        def train(value: Callable[[Tensor], Tensor]) -> None:
            x.grad = None
            value(x).backward()

        ours, peers = (lambda: train(lambda v: loss(v, y))), (lambda theirs=theirs: train(theirs))
        found.append(ratio(what, *seconds(ours, peers, repeat=3), 20))
        memory, other_memory = transient_bytes(ours), transient_bytes(peers)
        parts = f"{memory / 2**20:.3g} against {other_memory / 2**20:.4g} MiB"
        figure = f"1/{other_memory / memory:.0f}  ({parts})"
        found.append(Row("  its transient memory", figure, "<= 1/20", 20 * memory <= other_memory))
    return found


def _patch() -> Row:
    """Measure one small patch against the table as a product of two dense matrices of weights."""
    x, y = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    loss, centres = MutualInformationLoss(BINS, value_range=(0, 1)), torch.arange(BINS) + 0.5

    def weights(v: Tensor) -> Tensor:
        d = (v.flatten()[:, None] * BINS - centres).abs()
        return ((2 - d).clamp_min(0) ** 3 - 4 * (1 - d).clamp_min(0) ** 3) / 6

    def einsum() -> None:
        x.grad = None
        p = torch.einsum("na,nb->ab", weights(x), weights(y))
        p = p / p.sum()
        independent = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
        (-(p * (p / independent + 1e-12).log()).sum()).backward()

    def ours() -> None:
        x.grad = None
        loss(x, y).backward()

    mine, theirs = seconds(ours, einsum, repeat=60)
    what = "1 x 1 x 32 x 32, forward and backward, against a dense einsum"
    return at_most(what, mine / theirs, 1.2, "x")


def _densities() -> list[Row]:
    """Measure the loss of kernel densities, whose times have no bound of their own."""
    found = []
    for shape in ((1, 1, 32, 32), (64, 1, 32, 32), (1, 1, 64, 64, 64)):
        x, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        y, loss = 0.6 * x + 0.8 * noise, KDEMutualInformationLoss()
        x.requires_grad_()

        def train(x: Tensor = x, y: Tensor = y, loss: KDEMutualInformationLoss = loss) -> None:
            x.grad = None
            loss(x, y).backward()

        (time,) = seconds(train)
        what = f"{' x '.join(map(str, shape))}, kernel densities, forward and backward"
        found.append(Row(what, f"{1e3 * time:.3g} ms", "", None))
    return found


def _large() -> Row:
    x, y = torch.rand(2, 1, 1, 256, 256, 256, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    loss = MutualInformationLoss(BINS)
    memory = transient_bytes(lambda: loss(x, y).backward()) / 2**20
    return at_most(
        "256 x 256 x 256, forward and backward: memory beside the pair's own 128 MiB",
        memory,
        1920,
        " MiB",
    )


def _value() -> list[Row]:
    what = "64 x 64 x 64, value, against SimpleITK's Mattes MetricEvaluate"
    if not (sitk := peer("SimpleITK")):
        return [missing(what, "SimpleITK")]
    x, y = _pair("64 x 64 x 64")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkNearestNeighbor)
    method.SetInitialTransform(sitk.TranslationTransform(3))
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetNumberOfThreads(1)
    fixed, moving = (sitk.GetImageFromArray(v[0, 0].numpy()) for v in (y, x))
    loss = MutualInformationLoss(BINS, value_range=(0, 1))
    return [
        ratio(what, *seconds(lambda: loss(x, y), lambda: method.MetricEvaluate(fixed, moving)), 1)
    ]

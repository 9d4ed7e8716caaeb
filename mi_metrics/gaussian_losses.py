r"""Gaussian mutual information as a loss and as a penalty, for vectors of tens of dimensions.

Where tables (:mod:`mi_metrics.losses`) take pairs of numbers, these take whole vectors: every
linear dependence between any direction of x and any of y, at once, and nothing else. Ranks,
gradients and hidden checks are as said there.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mi_metrics.functional.conditions import check_condition, numbered
from mi_metrics.functional.options import (
    UNITS,
    Unit,
    check_choice,
    check_flag,
    check_integer,
    from_nats,
    hints_keywords,
)
from mi_metrics.functional.ranks import ALONE, OVER_RANKS
from mi_metrics.functional.shrinkage import (
    Conditions,
    class_codes,
    class_codes_of_all_ranks,
    shrunk_information,
    shrunk_information_of_labels,
)
from mi_metrics.functional.tensors import check_same_device, check_tensor, no_sample


class GaussianMutualInformationLoss(nn.Module):
    r"""Compute minus the Gaussian mutual information of paired vectors, in nats or bits, to be
    minimised.

    .. math::
        L = -I(x, y) = \tfrac12 \log\frac{\det R}{\det R_x \, \det R_y}

    with R the correlations of all coordinates of x and y. Class labels y count as one-hot vectors:
    then :math:`\det R / \det R_y` is that of x's correlations within classes.

    Conventions:
        Against :func:`mi_metrics.functional.gaussian_mutual_information` with
        ``bias_correction="none"``: equal to 1e-6 where N ≥ 5 (d_x + d_y) and the condition of R is
        below 1e8. Else correlations are shrunk by ρ, as noise added to every coordinate (of labels:
        of x) would shrink them, the larger of (5 d − N) / (2 (5 d + N)) for d = d_x + d_y, and of
        2⁻²⁷/d − 1 / tr R⁻¹ (:mod:`mi_metrics.functional.shrinkage`).
        Sign and range: from minus about (9 + ½ log d) nats per direction of y that x determines,
        to 0. Constant variable: 0, with gradient 0; a range below 2⁻⁹⁶⁰, whose gradient no number
        is large enough for, counts as one. Ties: no special rule.
        Bias: about d_x d_y / 2N, as the function says; it hardly moves the minimum. Under K
        conditions about K times that.
        Conditions: each has correlations and a ρ of its own, from its own samples, and counts by
        its share of them; one of a single sample counts as 0. So few samples are shrunk and not
        refused, in a condition as in a batch.
        Invariance: under any scale and place of each coordinate; without shrinkage under any
        invertible affine map of x and of y.
        Gradient: with respect to x and y; ρ is a constant to it. Exact, and finite for all finite
        input, also for N ≤ d_x + d_y and where y is a function of x. Double backward, torch.func
        and forward mode in eager mode. float64 throughout, whatever the input.
        Memory: three copies of the samples in float64 and some matrices of (d_x + d_y)²; under K
        conditions K times as much.
        Exact under splits and ranks: under ``gather=True``, which costs three all-reduces forward,
        two backward, and for labels a gather of these and one all-reduce each way. See
        :mod:`mi_metrics.losses` for what DDP computes without it.

    Args:
        unit: ``"nats"`` or ``"bits"``.
        gather: Take the samples of all processes of the default group for one batch; a process
            may have none. Without a process group it changes nothing.
        num_conditions: K, for ``condition`` labels 0 … K - 1: the loss is
            :math:`-I(x; y | z) = -\sum_k N_k/N \, I_k`. A label that is none of them makes it NaN.
            None: without ``condition``, or with one whose distinct values are the classes (neither
            compiled nor with ``gather``).

    Shape:
        - x: ``(N, d_x)`` floating-point; ``(N,)`` is read as ``(N, 1)``.
        - y: ``(N, d_y)`` floating-point; ``(N,)`` is read as ``(N, 1)``, or, of integers or bool,
          as class labels.
        - condition: ``(N,)`` integers or bool.
        - Output: scalar, in the inputs' dtype, at least float32.

    Raises:
        TypeError: If ``gather`` is no bool or ``num_conditions`` no integer.
        ValueError: If the unit is unknown, or there is no condition.

    Example:
        >>> import torch
        >>> from mi_metrics import GaussianMutualInformationLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 1000, 16, generator=generator)
        >>> x = x.requires_grad_()
        >>> loss = GaussianMutualInformationLoss()(x, 0.6 * x.detach() + 0.8 * noise)
        >>> loss.backward()
        >>> print(f"{loss:.2f}")  # truth: -16 · 0.2231 = -3.57, bias: -0.13
        -3.64

    References:
        J. Schäfer, K. Strimmer, "A shrinkage approach to large-scale covariance matrix estimation"
        (2005), doi:10.2202/1544-6115.1175: correlations shrunk towards independence.
    """

    sign: ClassVar[int] = -1

    @hints_keywords
    def __init__(
        self, *, unit: Unit = "nats", gather: bool = False, num_conditions: int | None = None
    ) -> None:
        super().__init__()
        check_choice("unit", unit, UNITS)
        check_flag("gather", gather)
        if num_conditions is not None:
            num_conditions = check_integer("num_conditions", num_conditions, 1)
        self.unit, self.gather, self.num_conditions = unit, gather, num_conditions

    def forward(self, x: Tensor, y: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Return the loss of a batch of pairs.

        Args:
            x: Samples ``(N, d_x)``, at least two (with ``gather=True`` of all processes together).
            y: Samples paired with ``x`` by position, ``(N, d_y)``, or class labels ``(N,)``.
            condition: Class labels of the samples, integers or bool ``(N,)``. The loss is that of
                I(x; y | condition).

        Returns:
            Scalar; in the inputs' dtype, at least float32.

        Raises:
            TypeError: If x is not a floating-point tensor, y is one of integers with several
                coordinates, or condition not one of integers or bool.
            ValueError: If shapes or devices do not fit, there are fewer than two samples, or the
                number of conditions has to be known and is not.
        """
        x, y, labels = self._check(x, y)
        reduce = ALONE if self._world_size() == 1 else OVER_RANKS
        given = self._conditions(x, condition)
        if not labels:
            value = shrunk_information(x, y, reduce, given)
        else:
            codes, classes = (
                (class_codes(y), len(y)) if reduce is ALONE else class_codes_of_all_ranks(y)
            )
            value = shrunk_information_of_labels(x, codes, classes, reduce, given)
        dtype = torch.promote_types(x.dtype, torch.float32 if labels else y.dtype)
        return from_nats(self.sign * value, self.unit).to(torch.promote_types(dtype, torch.float32))

    def extra_repr(self) -> str:
        """Return the options for ``print``."""
        given = "" if self.num_conditions is None else f", num_conditions={self.num_conditions}"
        return f"unit={self.unit!r}, gather={self.gather!r}{given}"

    def _conditions(self, x: Tensor, condition: Any) -> Conditions | None:
        if condition is None and self.num_conditions is None:
            return None
        labels = check_condition(condition, x[:, 0])
        shared = self._world_size() > 1
        return Conditions(
            *numbered(labels, self.num_conditions, type(self).__name__, shared=shared)
        )

    def _check(self, x: Any, y: Any) -> tuple[Tensor, Tensor, bool]:
        """Return x and y as matrices, y alone as int64 ``(N,)`` where it holds labels."""
        if not check_tensor("x", x).is_floating_point():
            raise TypeError(
                f"Expected `x` to be a floating-point tensor, but got {x.dtype}. Convert it first, "
                "for example with x.float(), or exchange x and y if it holds class labels."
            )
        labels = not check_tensor("y", y).is_floating_point()
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        if labels and y.ndim != 1:
            raise TypeError(
                f"Expected class labels `y` of shape (N,), but got {tuple(y.shape)} of {y.dtype}. "
                "For one-hot vectors or numbers use y.float()."
            )
        x, y = (v.unsqueeze(1) if v.ndim == 1 else v for v in (x, y))
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not (x.shape[1] and y.shape[1]):
            raise ValueError(
                "Expected `x` and `y` of shapes (N, d_x) and (N, d_y) with d ≥ 1, but got "
                f"{shapes}. Samples are paired by position; flatten what is one variable."
            )
        check_same_device({"x": x, "y": y})
        if len(x) == 0 and self._world_size() == 1:
            raise no_sample(x)
        if len(x) < 2 and self._world_size() == 1:
            raise ValueError(
                f"Expected at least 2 samples, but got shapes {shapes}. Use larger batches, or "
                "skip this one, as a DataLoader with drop_last=True does."
            )
        return x, y[:, 0].long() if labels else y, labels

    def _world_size(self) -> int:
        if not (self.gather and dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size()


class GaussianMutualInformationPenalty(GaussianMutualInformationLoss):
    r"""Compute the Gaussian mutual information of paired vectors, in nats or bits, to be minimised.

    Plus what :class:`GaussianMutualInformationLoss` is minus. Minimising it removes every linear
    trace of y from x, in all directions at once: where it is 0, no linear probe of the code tells
    the attribute, and the code has the same mean in all classes. What is not linear stays: look at
    the result with :class:`mi_metrics.KNNMutualInformation`, or add a penalty by coordinate.

    .. math::
        L = +I(x, y)

    Conventions:
        Bias: of independent samples it is not 0 but about d_x d_y / 2N, which is where the penalty
        ends. Batches of at least 5 (d_x + d_y) samples are good, ten times as many are better.
        All others: as :class:`GaussianMutualInformationLoss`.

    Args:
        unit: ``"nats"`` or ``"bits"``.
        gather: Take the samples of all processes of the default group for one batch.
        num_conditions: The number of classes of ``condition``. With y an attribute and the truth as
            condition this asks for equalised odds: no linear trace of y beyond the truth.

    Shape:
        - As :class:`GaussianMutualInformationLoss`.

    Raises:
        TypeError: As :class:`GaussianMutualInformationLoss`.
        ValueError: As :class:`GaussianMutualInformationLoss`.

    Example:
        >>> import torch
        >>> from mi_metrics import GaussianMutualInformationPenalty
        >>> generator = torch.Generator().manual_seed(0)
        >>> label = torch.randint(10, (1000,), generator=generator)
        >>> code = torch.randn(1000, 16, generator=generator)
        >>> print(f"{GaussianMutualInformationPenalty()(code, label):.2f}")  # bias: 16 · 9 / 2000
        0.08
        >>> code[:, 0] += label
        >>> print(f"{GaussianMutualInformationPenalty()(code, label):.2f}")
        1.17
    """

    sign = 1

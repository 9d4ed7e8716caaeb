r"""Conditional mutual information from joint tables of bins: what x and y share beyond what a class
label z explains.

Each value of z has its own joint table of x and y, and the information of each counts by its share
of the samples:

.. math:: I(X; Y | Z) = \sum_k \frac{N_k}{N} I_k .

The tables add up over batches, devices and hosts. For z of many values or of numbers:
:mod:`mi_metrics.functional.knn_conditional`.
"""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.binned import check_correction
from mi_metrics.functional.cautions import caution_each
from mi_metrics.functional.information import check_options
from mi_metrics.functional.options import (
    Binning,
    Kernel,
    NumBins,
    TableCorrection,
    Unit,
    ValueRange,
    hints_keywords,
)
from mi_metrics.functional.tables import views
from mi_metrics.functional.tables.automatic import MOST_BINS
from mi_metrics.functional.tables.classes import (
    class_doubts,
    class_tables,
    class_values,
    have_bins_of_their_own,
    sizes,
)
from mi_metrics.functional.tables.outside import outside_doubt
from mi_metrics.functional.tensors import (
    cast,
    check_same_device,
    check_tensor,
    check_values,
    of_no_pairs,
    paired_rows,
)


@hints_keywords
def binned_conditional_mutual_information(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    num_bins: NumBins = "auto",
    *,
    value_range: ValueRange = None,
    binning: Binning = "auto",
    clip_quantile: float = 0.0,
    margin: float = 0.0,
    kernel: Kernel = "hard",
    bias_correction: TableCorrection = "auto",
    unit: Unit = "nats",
) -> Tensor:
    r"""Compute the mutual information of paired samples that a class label does not explain, from
    a joint table of bins for each class, in nats or bits.

    .. math::
        I(X; Y | Z) = \sum_k \frac{N_k}{N} \sum_{ab} p_{ab|k}
        \log \frac{p_{ab|k}}{p_{a|k} \, p_{b|k}}

    Equalised odds ask for it: :math:`I(\hat y; s | y) = 0` where a prediction tells nothing about
    an attribute beyond the truth. Conditioning can lower the information, down to 0 where z is the
    common cause of x and y, and raise it, where z is a common effect: of two fair coins and z = x
    XOR y, I(X; Y) is 0 and I(X; Y | Z) is log 2. The chain rule holds for tables exactly:
    I(X; Y, Z) = I(X; Z) + I(X; Y | Z).

    Conventions:
        Sign and range: not clamped; 0 … min(log B_x, log B_y) without a bias correction, and below
        0 now and then with one.
        Symmetric in x and y; which numbers stand for the classes is of no effect.
        Bins: those of :func:`binned_mutual_information`. Given ones, and a bin per value, are
        chosen once for all classes, from all samples; an automatic number and its bins in each
        class, from its samples alone, so that nothing is lost where classes lie apart. Of several
        classes, one of fewer than 500 samples has fewer bins for its dependence than that function
        gives it, and one of fewer than 10 samples has a single bin, so that it contributes 0;
        tables of a bin per value are corrected where they need it. A single class gives that
        function's value, to the bit. Ties, automatic choice: as there.
        Constant input: a class in which x or y is constant contributes exactly 0, as do a class of
        one sample and one without any.
        Bias: without a correction too large by the sum over classes of
        (K_xy - K_x - K_y + 1) / 2N, so what counts is the number of samples per class: 2 per cell
        of the table for a value that is right without a correction. Each class is corrected for its
        own number. Automatic bins of 0.337 nats (r = 0.7) are estimated as 0.36 for 3 classes of
        100 samples, 0.37 for 10 of 30 and 0.33 for 20 of 20; of fewer samples there are too few
        bins: 0.16 for 30 classes of 10.
        Cautions: as :func:`binned_mutual_information`, where they concern more than a fifth of the
        samples; "undersampled" speaks of all classes together; "too few" where more than a fifth of
        the samples is in classes of fewer than 15.
        Gradient: with ``kernel="linear"`` or ``"cubic"``, with respect to x and y; finite
        everywhere. To train: :class:`mi_metrics.MutualInformationPenalty` with ``condition``.
        Memory: K · B_x · B_y cells per pair and a few copies of the samples.
        Exact under splits and ranks: the tables of
        :class:`mi_metrics.BinnedConditionalMutualInformation` add up.

    Args:
        x: Samples of any real dtype, shape ``(..., N)``.
        y: Samples paired with ``x`` by position, shape ``(..., N)``.
        z: Class labels, integers or bool, shape ``(..., N)``; its distinct values are the classes.
        num_bins: Bins of both axes, ``(B_x, B_y)``, or ``"auto"``.
        value_range: ``None``, ``(lo, hi)`` or ``((x_lo, x_hi), (y_lo, y_hi))``, as in
            :func:`binned_mutual_information`, and so are all that follow.
        binning: ``"auto"``, ``"uniform"``, ``"quantile"`` or ``"values"``, or a pair of them.
        clip_quantile: Fraction of samples at each end that the range leaves out.
        margin: Fraction of the width that is added at both ends.
        kernel: ``"hard"``, ``"linear"`` or ``"cubic"``.
        bias_correction: ``"auto"``, ``"none"``, ``"miller_madow"`` or ``"grassberger"``.
        unit: ``"nats"`` or ``"bits"``.

    Returns:
        float64 of shape ``(...)``.

    Raises:
        TypeError: If x, y or z are not real tensors, z holds floating-point numbers, or an option
            has the wrong type.
        ValueError: If shapes or devices differ, there is no sample, a sample is NaN or infinite,
            the tables of so many classes do not fit in memory, or an option is unknown, out of its
            range or excludes another.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import (
        ...     binned_conditional_mutual_information,
        ...     binned_mutual_information,
        ... )
        >>> x, y = torch.tensor([[0, 0, 1, 1] * 50, [0, 1, 0, 1] * 50])
        >>> print(f"{binned_mutual_information(x, y):.4f}")
        0.0000
        >>> print(f"{binned_conditional_mutual_information(x, y, x ^ y):.4f}")
        0.6931

    References:
        A. D. Wyner, "A definition of conditional mutual information for arbitrary ensembles"
        (1978), doi:10.1016/S0019-9958(78)90026-8.
        M. Hardt, E. Price, N. Srebro, "Equality of opportunity in supervised learning" (2016),
        arXiv:1610.02413.
    """
    check_options("none", bias_correction, unit)
    check_correction(bias_correction, kernel)
    options = views.parse(
        num_bins,
        value_range,
        binning,
        clip_quantile,
        margin,
        kernel,
        bias_correction=bias_correction,
        unit=unit,
    )
    leading = x.shape[:-1] if isinstance(x, Tensor) else ()
    rows = paired_rows(x, y)
    x, y, _ = rows
    labels, number = torch.unique(_labels(z, (*leading, x.shape[1]), x), return_inverse=True)
    if not len(x):
        return of_no_pairs(x, *leading)
    conditions = views.Conditions(number.view(x.shape), len(labels))
    if options.soft:
        x, y = cast(x, torch.float64), cast(y, torch.float64)
    # As for two variables.
    most = MOST_BINS if options.ranges else 2 * MOST_BINS
    if have_bins_of_their_own(options):
        size, tables = sizes(conditions), list(class_tables(x, y, options, conditions))
        value = class_values(tables, size, options).reshape(leading)
        found = class_doubts(tables, size, options, most, labels.tolist())
    else:
        shared = views.tables(x, y, None, options, conditions=conditions)
        value, found = views.answers(shared, options, torch.Size(leading), most)
    caution_each(outside_doubt(rows, options.ranges) | found)
    return value


def check_labels(name: str, value: Any) -> Tensor:
    """Return class labels as int64; refuse what holds none."""
    labels = check_tensor(name, value)
    check_values(name, labels)
    if labels.is_floating_point():
        raise TypeError(
            f"Expected class labels in `{name}` (integers or bool), but got {labels.dtype}. "
            f"Convert labels with {name}.long(). A continuous condition has no classes: cut it "
            "into some with torch.bucketize, or use knn_conditional_mutual_information."
        )
    # Numbers from 2**63 on wrap around, and stay apart.
    return labels.detach().view(torch.int64) if labels.dtype == torch.uint64 else labels.long()


def _labels(z: Any, shape: tuple[int, ...], x: Tensor) -> Tensor:
    labels = check_labels("z", z)
    if labels.shape != shape:
        raise ValueError(
            f"Expected `z` of the samples' shape {shape}, but got {tuple(labels.shape)}. Give "
            "every sample its label, for example with z.expand_as(x)."
        )
    check_same_device({"x": x, "z": labels})
    return labels

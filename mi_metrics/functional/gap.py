"""Disentanglement scores: is each factor of variation encoded in a latent of its own?

They are read from a matrix of mutual information, latents in rows and factors in columns; see
:func:`mi_metrics.functional.mutual_information_matrix`.
"""

from typing import Any

import torch
from torch import Tensor

from mi_metrics.functional.cautions import caution
from mi_metrics.functional.information import ROUNDING
from mi_metrics.functional.options import GAP_KINDS, GapKind, check_choice, hints_keywords
from mi_metrics.functional.tensors import check_same_device, check_tensor, check_values


@hints_keywords
def mutual_information_gap(matrix: Tensor, entropies: Tensor, *, kind: GapKind = "mig") -> Tensor:
    r"""Compute how well each factor is encoded in one latent of its own (dimensionless, 0 … 1).

    With :math:`I_{lf}` the information of latent l about factor f and :math:`H_f` the factors'
    entropies, :math:`\max^{(2)}` the second largest value:

    .. math::
        \text{"mig"} &= \frac1F \sum_f \frac{\max_l I_{lf} - \max^{(2)}_l I_{lf}}{H_f} \\
        \text{"mig\_sup"} &= \frac1L \sum_l \left(
            \max_f \frac{I_{lf}}{H_f} - \max^{(2)}_f \frac{I_{lf}}{H_f} \right) \\
        \text{"modularity"} &= \frac1L \sum_l \left( 1 - \frac
            {\sum_f I_{lf}^2 - \max_f I_{lf}^2}{(F - 1) \max_f I_{lf}^2} \right)

    ``"mig"`` falls where a factor is spread over latents, the other two where a latent mixes
    factors.

    Conventions:
        Range: 0 … 1 where the entropies are those of the factors' bins in the tables of the matrix.
        1 for a code with a latent for each factor; ``"mig"`` is 0 for one that has each twice.
        Negative values, as bias corrections make them, count as 0: modularity would square them.
        Symmetric: the order of latents and of factors does not matter.
        Constant factors (an entropy below 1e-12) are left out with a caution; where none is left,
        and for ``"modularity"`` a single one, the value is NaN.
        Latents that tell nothing of any factor: left out of the mean by ``"mig_sup"``, which is NaN
        with a caution if there is no other; they count as 0 in ``"modularity"``.
        A single latent (``"mig"``) or factor (``"mig_sup"``): its second best is 0.
        Bias: plug-in values are too large, all by about as much, which differences cancel and
        quotients don't; and published scores depend on the discretiser. The usual one is 20 bins of
        equal width for latents and a bin for each value of the factors:
        ``mutual_information_matrix(latents, factors, 20, bias_correction="none")``.
        NaN in the matrix makes the value NaN.
        Gradient: with respect to the matrix, where the largest values are unique.
        Exact under splits and ranks: :class:`mi_metrics.MutualInformationGap` is.

    Args:
        matrix: Mutual information, shape ``(latents, factors)``.
        entropies: Entropies of the factors in the same unit, shape ``(factors,)``.
        kind: ``"mig"``, ``"mig_sup"`` or ``"modularity"``.

    Returns:
        float64, a scalar.

    Raises:
        TypeError: If an argument is not a real tensor.
        ValueError: If shapes don't fit, devices differ, an entropy is negative, the kind is
            unknown, or modularity is asked of one factor.

    Example:
        >>> import torch
        >>> from mi_metrics.functional import mutual_information_gap
        >>> matrix = torch.tensor([[0.6, 0.0], [0.1, 0.5], [0.0, 0.4]])
        >>> entropies = torch.tensor([0.7, 0.7])
        >>> print(f"{mutual_information_gap(matrix, entropies):.3f}")
        0.429
        >>> print(f"{mutual_information_gap(matrix, entropies, kind='mig_sup'):.3f}")
        0.667

    References:
        R. T. Q. Chen, X. Li, R. Grosse, D. Duvenaud, "Isolating sources of disentanglement in
        variational autoencoders" (2018), arXiv:1802.04942 (MIG). Z. Li, J. V. Murkute, P. K.
        Gyawali, L. Wang, "Progressive learning and disentanglement of hierarchical representations"
        (2020), arXiv:2002.10549 (MIG-sup). K. Ridgeway, M. C. Mozer, "Learning deep disentangled
        embeddings with the F-statistic loss" (2018), arXiv:1802.05312 (modularity).
    """
    check_choice("kind", kind, GAP_KINDS)
    matrix, entropies = _checked_gap(matrix, entropies)
    check_factors(kind, matrix.shape[1])
    value, doubts = gap_and_doubts(matrix, entropies, kind)
    for doubt in doubts:
        caution("constant", doubt)
    return value


def gap_and_doubts(matrix: Tensor, entropies: Tensor, kind: str) -> tuple[Tensor, list[str]]:
    """Return :func:`mutual_information_gap` and what to say about constants, without checks."""
    doubts = []
    told = ~(entropies < ROUNDING)
    if not bool(told.all()):
        constant = (~told).nonzero().squeeze(1).tolist()
        doubts.append(
            f"{len(constant)} of {len(entropies)} factors are constant (number "
            f"{', '.join(map(str, constant[:5]))}{' …' if len(constant) > 5 else ''}) and left out "
            "of the score. Evaluate on samples in which every factor varies."
        )
        matrix, entropies = matrix[:, told], entropies[told]
    matrix = matrix.clamp_min(0)
    if matrix.shape[1] < (2 if kind == "modularity" else 1):
        return matrix.new_full((), torch.nan), doubts
    if kind == "mig":
        return (_gap(matrix.T) / entropies).mean(), doubts
    if kind == "modularity":
        return _modularity(matrix), doubts
    shares = matrix / entropies
    tells = ~(shares.amax(1) < ROUNDING)
    if not bool(tells.any()):
        doubts.append(
            "No latent tells anything of a factor, so there is none to average over and the value "
            'is NaN. Check that the latents are not constant; kind="mig" is 0 for them.'
        )
    return _gap(shares[tells]).mean(), doubts


def check_factors(kind: str, factors: int) -> None:
    """Refuse modularity of a single factor."""
    if kind == "modularity" and factors == 1:
        raise ValueError(
            'Expected two factors or more for kind="modularity", which compares the factors of a '
            'latent with each other, but got one. Use kind="mig".'
        )


def _checked_gap(matrix: Any, entropies: Any) -> tuple[Tensor, Tensor]:
    """Return both in float64, or refuse them."""
    matrix, entropies = check_tensor("matrix", matrix), check_tensor("entropies", entropies)
    check_same_device({"matrix": matrix, "entropies": entropies})
    check_values("matrix", matrix)
    if matrix.ndim != 2 or 0 in matrix.shape or entropies.shape != matrix.shape[1:]:
        raise ValueError(
            "Expected `matrix` of shape (latents, factors) and `entropies` of shape (factors,), "
            f"but got {tuple(matrix.shape)} and {tuple(entropies.shape)}. Rows are latents; pass "
            "matrix.T where they are factors."
        )
    if bool((entropies < -ROUNDING).any() | entropies.isinf().any()):
        raise ValueError(
            "Expected `entropies` to be finite and not negative, but got values from "
            f"{entropies.min().item():g} to {entropies.max().item():g}. Pass those of the binned "
            "factors, not differential ones."
        )
    return matrix.double(), entropies.double()


def _gap(matrix: Tensor) -> Tensor:
    """Return the largest less the second largest value of each row; of one, that."""
    first, *second = matrix.topk(min(2, matrix.shape[1]), 1).values.unbind(1)
    return first - second[0] if second else first


def _modularity(matrix: Tensor) -> Tensor:
    squares = matrix.square()
    largest = squares.amax(1)
    told = ~(largest < ROUNDING**2)
    rest = (squares.sum(1) - largest) / (torch.where(told, largest, 1) * (matrix.shape[1] - 1))
    return torch.where(told, 1 - rest, 0).mean()

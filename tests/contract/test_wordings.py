"""The same fault is answered in the same words by functions, metrics and losses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_metrics import (
    BinnedMutualInformation,
    GaussianMutualInformation,
    GaussianMutualInformationLoss,
    KDEMutualInformation,
    KDEMutualInformationLoss,
    KNNMutualInformation,
    MutualInformationLoss,
)
from mi_metrics.functional import binned_mutual_information, kde_mutual_information

X = torch.rand(40, generator=torch.Generator().manual_seed(0))
SCALARS: dict[str, Callable[..., Any]] = {
    "function of bins": binned_mutual_information,
    "function of densities": kde_mutual_information,
    "metric of bins": lambda *a, **k: BinnedMutualInformation().update(*a, **k),
    "metric of densities": lambda *a, **k: KDEMutualInformation().update(*a, **k),
    "metric of neighbours": lambda *a, **k: KNNMutualInformation().update(*a, **k),
    "loss of bins": lambda *a, **k: MutualInformationLoss(8, pool="batch")(*a, **k),
    "loss of densities": lambda *a, **k: KDEMutualInformationLoss(pool="batch")(*a, **k),
}
MASKED = {name: call for name, call in SCALARS.items() if not name.startswith("function")}
VECTORS: dict[str, Callable[..., Any]] = {
    "metric": lambda *a: GaussianMutualInformation().update(*a),
    "loss": lambda *a: GaussianMutualInformationLoss()(*a),
}


def sentence(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises((TypeError, ValueError)) as caught:
        call(*args, **kwargs)
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (([0.5], X), "TypeError: Expected `x` to be a torch.Tensor, but got list. "),
        ((X, None), "TypeError: Expected `y` to be a torch.Tensor, but got NoneType. "),
        ((X + 0j, X), "TypeError: Expected `x` to be real, but got torch.complex64. "),
        ((X, X.to_sparse()), "TypeError: Expected `y` to be a dense tensor, "),
        ((X, X[:-1]), "ValueError: Expected `x` and `y` to have the same shape, but got (40,) "),
        ((X, X.to("meta")), "ValueError: Expected `x` and `y` on the same device, but got cpu "),
        ((X[:0], X[:0]), "ValueError: Expected at least one sample, but got shape (0,). "),
    ],
)
def test_a_pair_is_refused_in_one_sentence(pair: tuple[Any, Any], words: str):
    said = {name: sentence(call, *pair) for name, call in SCALARS.items()}
    assert len(set(said.values())) == 1, said
    assert next(iter(said.values())).startswith(words)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (X, "TypeError: Expected `mask` to be a bool tensor, True where a sample counts, "),
        ([True], "TypeError: Expected `mask` to be a bool tensor, True where a sample counts, "),
        (X[:7] > 0, "ValueError: Expected `mask` of the samples' shape (40,), or one that "),
        ((X > 0).to("meta"), "ValueError: Expected `x` and `mask` on the same device, but got "),
    ],
)
def test_a_mask_is_refused_in_one_sentence(mask: Any, words: str):
    said = {name: sentence(call, X, X, mask=mask) for name, call in MASKED.items()}
    assert len(set(said.values())) == 1, said
    assert next(iter(said.values())).startswith(words)


@pytest.mark.parametrize(
    "pair",
    [
        ([0.5], X),
        (X[:0], X[:0]),
        (X, X.to("meta")),
    ],
)
def test_vectors_are_refused_in_the_words_of_scalars(pair: tuple[Any, Any]):
    said: dict[str, str] = {name: sentence(call, *pair) for name, call in VECTORS.items()}
    scalars: Tensor | str = sentence(SCALARS["metric of bins"], *pair)
    shape = "(0,)", "(0, 1)"
    assert {v.replace(*reversed(shape)) for v in said.values()} == {scalars}, said

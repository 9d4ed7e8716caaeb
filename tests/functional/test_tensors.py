"""The door for samples: what is refused, word for word, and what passes unchanged."""

import pytest
import torch
from sklearn.metrics import mutual_info_score

import mi_metrics as mi
from mi_metrics import functional as f
from mi_metrics.functional.tensors import (
    CHUNKS,
    NO_FLOAT64,
    check_exact,
    chunk_size,
    paired_rows,
    paired_vectors,
)

G = torch.Generator().manual_seed(0)
X, Y = torch.rand(2, 200, generator=G)
FUNCTIONS = {
    "bins": f.binned_mutual_information,
    "joint": f.binned_joint,
    "density": f.kde_mutual_information,
    "smooth joint": f.kde_joint,
    "neighbours": f.knn_mutual_information,
    "gaussian": f.gaussian_mutual_information,
}
SCALARS = ("bins", "joint", "density", "smooth joint")
METRICS = {
    "bins": lambda: mi.BinnedMutualInformation(8),
    "bins of a range": lambda: mi.BinnedMutualInformation(8, value_range=(0, 1)),
    "soft bins": lambda: mi.BinnedMutualInformation(8, value_range=(0, 1), kernel="cubic"),
    "density": mi.KDEMutualInformation,
    "neighbours": mi.KNNMutualInformation,
    "bounded neighbours": lambda: mi.KNNMutualInformation(max_samples=50),
    "vectors": lambda: mi.KNNMutualInformation(x_dim=2, y_dim=2),
    "labels": lambda: mi.KNNMutualInformation(discrete_y=True),
    "gaussian": mi.GaussianMutualInformation,
}
LOSSES = {
    "loss": mi.MutualInformationLoss(8, pool="batch"),
    "penalty": mi.MutualInformationPenalty(8, pool="batch"),
    "density": mi.KDEMutualInformationLoss(pool="batch"),
    "gaussian": mi.GaussianMutualInformationLoss(),
    "gaussian penalty": mi.GaussianMutualInformationPenalty(),
}


class OnMPS(torch.Tensor):
    """A tensor that says it is on a device of Apple's."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("mps")


def moved(v: torch.Tensor) -> torch.Tensor:
    return v.as_subclass(OnMPS)


def samples(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    if name == "vectors":
        return X.view(-1, 2), Y.view(-1, 2)
    return X, (8 * Y).long() if name == "labels" else Y


# -- devices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_refuse_a_device_without_float64(name):
    with pytest.raises(TypeError) as caught:
        FUNCTIONS[name](moved(X), moved(Y))
    assert str(caught.value) == NO_FLOAT64


@pytest.mark.parametrize("function", [f.entropies, f.mutual_information, f.standard_error])
def test_functions_of_tables_refuse_a_device_without_float64(function):
    with pytest.raises(TypeError) as caught:
        function(moved(torch.ones(2, 2)))
    assert str(caught.value) == NO_FLOAT64


@pytest.mark.parametrize("name", LOSSES)
def test_losses_refuse_a_device_without_float64(name):
    with pytest.raises(TypeError) as caught:
        LOSSES[name](moved(X), moved(Y))
    assert str(caught.value) == NO_FLOAT64


@pytest.mark.parametrize("name", METRICS)
def test_metrics_refuse_a_device_without_float64(name):
    metric = METRICS[name]()
    with pytest.raises(TypeError) as caught:
        metric.update(*map(moved, samples(name)))
    assert str(caught.value) == NO_FLOAT64
    with pytest.raises(TypeError) as caught:
        metric._apply(moved)
    assert str(caught.value) == NO_FLOAT64
    # Nothing has moved, and the metric goes on.
    metric.update(*samples(name))
    assert metric.update_count == 1


def test_what_torch_says_of_mps_is_said_in_our_words():
    def to_mps(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
                "float64. Please use float32 instead."
            )
        return tensor

    with pytest.raises(TypeError) as caught:
        METRICS["soft bins"]()._apply(to_mps)
    assert str(caught.value) == NO_FLOAT64


@pytest.mark.parametrize("name", FUNCTIONS)
def test_different_devices_have_one_wording(name):
    with pytest.raises(ValueError, match="`x` and `y` on the same device, but got cpu and meta"):
        FUNCTIONS[name](X, Y.to("meta"))


def test_one_table_has_the_sizes_of_chunks():
    for work in CHUNKS:
        assert chunk_size(work, torch.device("cpu")) <= chunk_size(work, torch.device("cuda"))


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize("shape", [(1000, 1), (3, 100, 1), (1, 1)])
def test_one_sample_per_pair_is_refused(name, shape):
    x = torch.rand(shape)
    with pytest.raises(ValueError, match="one sample per pair") as caught:
        FUNCTIONS[name](x, x)
    assert str(caught.value) == (
        "Expected `x` and `y` of shape (..., N), with the samples along the last dimension, but "
        f"got one sample per pair in shape {shape}. For samples of shape (N, 1) pass "
        "x.squeeze(-1), y.squeeze(-1)."
    )


def test_what_is_named_works():
    x, y = X.unsqueeze(1), Y.unsqueeze(1)
    value = f.binned_mutual_information(x.squeeze(-1), y.squeeze(-1), 4)
    assert value.equal(f.binned_mutual_information(X, Y, 4))


def test_vectors():
    x, y = paired_vectors(X, Y.view(-1, 1))
    assert x.shape == y.shape == (200, 1)
    with pytest.raises(ValueError, match="at least one coordinate"):
        paired_vectors(torch.rand(5, 0), torch.rand(5, 1))


def test_rows_keep_the_gradient_and_leave_out_what_has_no_weight():
    x = X.view(2, 100).clone().requires_grad_()
    weights = torch.ones(2, 100)
    weights[:, 0] = 0
    y = Y.view(2, 100).clone()
    y[:, 0] = torch.nan
    rows = paired_rows(x, y, weights)
    assert rows.x.requires_grad
    assert rows.weights.dtype == torch.float64
    assert (rows.y[:, 0] == 0).all()
    assert rows.x[:, 1:].equal(x[:, 1:])


# -- whole numbers ---------------------------------------------------------------------------------

EDGE = 2**53


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([EDGE, 0], torch.int64),
        ([-EDGE, 1], torch.int64),
        ([EDGE, 3], torch.uint64),
        ([2**31 - 1], torch.int32),
        ([], torch.int64),
    ],
)
def test_whole_numbers_up_to_two_to_the_53_pass(values, dtype):
    check_exact("x", torch.tensor(values, dtype=dtype))


@pytest.mark.parametrize(
    ("values", "dtype", "shown"),
    [
        ([EDGE + 1, 0], torch.int64, EDGE + 1),
        ([-EDGE - 1, 5], torch.int64, -EDGE - 1),
        ([-(2**63), 0], torch.int64, -(2**63)),
        ([EDGE + 1, 5], torch.uint64, EDGE + 1),
        ([2**63 + 5, 5], torch.uint64, 2**63 + 5),
        ([2**64 - 1, 5], torch.uint64, 2**64 - 1),
    ],
)
def test_larger_ones_are_refused_with_the_fix(values, dtype, shown):
    with pytest.raises(ValueError, match="merge") as caught:
        check_exact("y", torch.tensor(values, dtype=dtype))
    assert str(caught.value) == (
        "Expected whole numbers in `y` of at most 2**53, beyond which float64 would merge them, "
        f"but got {shown}. Subtract the least, y - y.min(), or number the distinct ones with "
        "torch.unique(y, return_inverse=True)[1]."
    )


IDS = 2**62 + torch.randint(0, 5, (2000,), generator=G)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_refuse_ids_that_would_merge(name, dtype):
    ids = IDS.to(dtype)
    for pair in ((ids, X.repeat(10)), (X.repeat(10), ids)):
        with pytest.raises(ValueError, match=r"whole numbers in `[xy]` of at most 2\*\*53"):
            FUNCTIONS[name](*pair)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64])
@pytest.mark.parametrize("name", METRICS)
def test_metrics_refuse_ids_that_would_merge(name, dtype):
    metric = METRICS[name]()
    ids, x = IDS.to(dtype), X.repeat(10)
    if name == "vectors":
        ids, x = ids.view(-1, 2), x.view(-1, 2)
    with pytest.raises(ValueError, match=r"whole numbers in `y` of at most 2\*\*53"):
        metric.update(x, ids)
    assert metric.counters.sum() == 0


def test_the_fix_gives_the_value():
    truth = mutual_info_score(IDS.numpy(), IDS.numpy())
    for ids in (IDS - IDS.min(), torch.unique(IDS, return_inverse=True)[1]):
        assert f.binned_mutual_information(ids, ids, 5).item() == pytest.approx(truth, abs=1e-12)


def test_labels_of_any_size_are_exact_where_ranks_stand_for_them():
    x = (IDS - 2**62).double() + 0.1 * torch.randn(2000, generator=G, dtype=torch.float64)
    value = f.knn_mutual_information(x, IDS, discrete_y=True)
    assert value.equal(f.knn_mutual_information(x, IDS - 2**62, discrete_y=True))

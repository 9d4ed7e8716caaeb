"""The figures of "which estimator at which dimension", and the exact bias of the Gaussian one."""

import pytest
import torch

from benchmarks.dimensions import EXACT, error, gaussian, spiral, student
from mi_metrics.functional import gaussian_mutual_information, knn_mutual_information
from tests.cautions import ignore_cautions

pytestmark = ignore_cautions


@pytest.mark.campaign
@pytest.mark.parametrize(("dim", "r", "n"), EXACT)
def test_gaussian_estimate_is_unbiased_from_the_least_number_of_samples_on(dim, r, n):
    mean, deviation = error(dim, r, n)
    assert abs(mean) <= 3 * deviation
    if n == 500:
        assert abs(mean) <= 0.02


def test_what_the_gaussian_estimate_is_blind_to():
    for data, seen in ((spiral(0.45), 0.2), (student(5), 0.12)):
        draws = [data.draw(3000, torch.Generator().manual_seed(seed)) for seed in range(2)]
        # Of ranks, because far samples alone can make the covariance of a Student-t.
        blind = torch.stack(
            [gaussian_mutual_information(x, y, copula=True) for x, y in draws]
        ).mean()
        neighbours = torch.stack(
            [knn_mutual_information(x, y, standardize="rank") for x, y in draws]
        ).mean()
        assert data.truth >= 0.29
        assert abs(blind) < 0.02, data.name
        assert neighbours > seen, data.name


def test_neighbours_lose_what_the_gaussian_estimate_sees_in_many_dimensions():
    data = gaussian(25, 1.0)
    x, y = data.draw(5000, torch.Generator().manual_seed(0))
    assert gaussian_mutual_information(x, y).item() == pytest.approx(1, abs=0.1)
    assert knn_mutual_information(x, y).item() < 0.5

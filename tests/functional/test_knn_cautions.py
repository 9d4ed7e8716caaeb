"""What knn_mutual_information warns of, and where it keeps quiet."""

import numpy as np
import pytest
import torch

from mi_metrics.functional import knn_mutual_information
from tests.cautions import warned
from tests.functional.knn_oracle import gaussian_pair


class TestFarSamples:
    """A far sample sets the standard deviation, and with it what the neighbours can tell apart."""

    @pytest.mark.parametrize("n", [100, 3000])
    @pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
    def test_is_said_where_they_hide_the_rest(self, n, scale):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(n, 0.6))
        x[n // 2] = 1e5
        y[n // 2] = 0
        with warned(
            "far samples", match=r"Far samples set the standard deviation .* standardize=\"rank\""
        ):
            value = knn_mutual_information(scale * x, y)
        assert value < 0.1
        assert knn_mutual_information(scale * x, y, standardize="rank") > 0.12
        assert knn_mutual_information(x, y, standardize=False) > 0.12

    @pytest.mark.parametrize(
        "heavy", [torch.exp, lambda v: v**3, lambda v: (2 * v).exp(), torch.sign, torch.round]
    )
    @pytest.mark.parametrize("n", [100, 3000])
    def test_heavy_tails_and_ties_alone_are_no_reason(self, heavy, n):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(n, 0.6))
        knn_mutual_information(heavy(x), y)
        knn_mutual_information(x, heavy(y))

    @pytest.mark.parametrize("n", [100, 1000])
    @pytest.mark.parametrize("r", [0.6, 0.99])
    def test_does_no_harm_up_to_a_tenth_of_n_times_the_spread(self, r, n):
        pairs = [gaussian_pair(n, r, seed) for seed in range(16)]
        x, y = (torch.from_numpy(np.stack(v)) for v in zip(*pairs, strict=True))
        far = x.clone()
        far[:, 3] = n / 10
        loss = (knn_mutual_information(far, y) - knn_mutual_information(x, y)).mean().item()
        assert -0.04 < loss < 0.02

    @pytest.mark.parametrize("n", [100, 1000])
    def test_is_said_from_about_n_times_the_spread_on(self, n):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(n, 0.6))
        x[3] = n
        knn_mutual_information(x, y)
        x[3] = 2 * n
        with warned("far samples"):
            knn_mutual_information(x, y)

    def test_is_said_beside_a_value_that_most_samples_have(self):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(3000, 0.6))
        rain = (x - 0.9).clip(0)
        knn_mutual_information(rain, y)
        knn_mutual_information((x > 3).double(), y)
        knn_mutual_information((torch.arange(3000) == 7).double(), y)
        rain[7] = 1e6
        with warned("far samples"):
            assert knn_mutual_information(rain, y) < 0.01

    def test_is_not_said_of_too_few_for_quartiles(self):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(30, 0.6))
        x[7] = 1e5
        knn_mutual_information(x[:29], y[:29])
        with warned("far samples"):
            knn_mutual_information(x, y)

    def test_a_single_coordinate_beside_labels_has_no_scale_to_compare(self):
        x, y = (torch.from_numpy(v[:, 0]) for v in gaussian_pair(3000, 0.6))
        clean = knn_mutual_information(x, (y > 0).long(), discrete_y=True).item()
        x[7] = 1e6
        assert knn_mutual_information(x, (y > 0).long(), discrete_y=True).item() == pytest.approx(
            clean, abs=0.005
        )

    def test_labels_are_no_coordinates(self):
        x = torch.from_numpy(np.concatenate(gaussian_pair(1000, 0.6), 1))
        labels = torch.arange(1000)
        labels[500:] = 500
        labels[7] = 10**9
        knn_mutual_information(x, labels, discrete_y=True)
        with warned("far samples"):
            knn_mutual_information(
                x + 1e6 * (torch.arange(1000) == 3)[:, None], labels, discrete_y=True
            )

"""What the campaign of p-values and intervals prints is held to what is promised."""

import numpy as np
import pytest
import torch

from campaigns import inference as campaign


def test_cells_of_a_gaussian_pair_against_samples():
    x_edges, y_edges = np.array([-1.0, 0.2, 0.9]), np.array([-0.5, 0.5])
    p = campaign.gaussian_cells(x_edges, y_edges, 0.6)
    assert p.shape == (4, 3)
    assert p.sum() == pytest.approx(1)
    x, y = campaign.samples(200_000, 0.6, torch.Generator().manual_seed(0))
    counts, *_ = np.histogram2d(x, y, [[-np.inf, *x_edges, np.inf], [-np.inf, *y_edges, np.inf]])
    # Four standard errors of a share.
    np.testing.assert_allclose(counts / 200_000, p, atol=4 * np.sqrt(0.25 / 200_000))
    # Fine bins have all of it, coarse ones a part.
    values = [campaign.information(campaign.equal_cells(bins, 0.6)) for bins in (2, 16, 256)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(-np.log(1 - 0.36) / 2, abs=2e-3)


def test_the_section_is_written_in_place_of_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "RESULTS.md"
    monkeypatch.setattr(campaign, "RESULTS", path)
    path.write_text("# Figures\n\n## First\n\none\n")
    campaign.write(f"{campaign.TITLE}\n\nold\n\nrows")
    assert path.read_text() == f"# Figures\n\n## First\n\none\n\n{campaign.TITLE}\n\nold\n\nrows\n"
    path.write_text(path.read_text() + "\n## Last\n\ntwo\n")
    campaign.write(f"{campaign.TITLE}\n\nnew")
    expected = f"# Figures\n\n## First\n\none\n\n{campaign.TITLE}\n\nnew\n\n## Last\n\ntwo\n"
    assert path.read_text() == expected


@pytest.mark.campaign
@pytest.mark.parametrize("n", [500, 2000])
@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
def test_intervals_hold_the_information_between_automatic_edges(n, r):
    # 300 repetitions of 95 % have a standard error of 1.3.
    assert campaign.covered_by_automatic_bins(n, r, 300) >= 0.91


@pytest.mark.campaign
@pytest.mark.parametrize(
    "cells",
    [
        lambda: campaign.label_cells(0.0),
        lambda: campaign.label_cells(0.3),
        lambda: campaign.label_cells(1.0),
        lambda: campaign.tied_cells(0.0),
        lambda: campaign.tied_cells(0.6),
    ],
)
def test_intervals_of_labels_and_of_ties(cells):
    assert campaign.covered(cells(), 500, 300) >= 0.91


@pytest.mark.campaign
def test_intervals_of_nearly_empty_cells_miss_no_more_than_is_said():
    # 92 %, as the function says of single kinds of data.
    assert 0.86 <= campaign.covered(campaign.lognormal_cells(0.5), 500, 300) <= 0.96


@pytest.mark.campaign
# Ties leave cells of few expected samples, which the test by G says.
@pytest.mark.filterwarnings("ignore::mi_metrics.MutualInformationWarning")
@pytest.mark.parametrize("n", [60, 250])
@pytest.mark.parametrize("draw", [campaign.samples, campaign.tied, campaign.rounded])
def test_five_percent_of_independent_samples_in_automatic_bins(draw, n):
    permuted, _ = campaign.binned(draw, n, 0.0, None, 500)
    # 5 % in 500 draws: a standard error of 1.
    assert permuted <= 0.085


@pytest.mark.campaign
def test_permutations_reject_as_often_as_g_where_that_is_calibrated():
    permuted, g = campaign.binned(campaign.samples, 300, 0.2, 4, 300)
    assert permuted > 0.45
    assert permuted >= g - 0.08


def test_independent_tables_have_no_less_than_no_information() -> None:
    # Intervals begin at 0: a truth of -5e-16 would lie in none.
    for name, n, p in campaign.tables():
        if n == 500 and name.endswith(("r = 0.0", " 0% dependent")):
            assert 0 <= campaign.information(p) < 1e-12

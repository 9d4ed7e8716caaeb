import sys

import numpy as np
import pytest
import torch

from mi_metrics import (
    BinnedMutualInformation,
    KDEMutualInformation,
    MutualInformationWarning,
)
from mi_metrics.plotting import plot_joint, plot_matrices, plot_pointwise

pytest.importorskip("matplotlib")

JOINT = torch.tensor([[0.1, 0.0, 0.2], [0.3, 0.0, 0.4]])
X_EDGES = torch.tensor([0.0, 1.0, 5.0])
Y_EDGES = torch.tensor([-3.0, -2.0, 0.0, 10.0])


def parts(figure):
    """Return the axes of the table, of the marginal above, of the one on the right, and of the
    colour bar.
    """
    return [ax for ax in figure.axes if ax.axison]


def test_x_runs_to_the_right_and_y_upwards_in_data_units():
    figure, ax = plot_joint(
        JOINT, X_EDGES, Y_EDGES, x_label="dose", y_label="response", title="trial"
    )
    (mesh,) = ax.collections
    coordinates = mesh.get_coordinates()
    np.testing.assert_array_equal(coordinates[0, :, 0], X_EDGES)
    np.testing.assert_array_equal(coordinates[:, 0, 1], Y_EDGES)
    shown = mesh.get_array()
    np.testing.assert_allclose(shown.filled(0), JOINT.T, rtol=1e-6)
    assert shown.mask.tolist() == [[False, False], [True, True], [False, False]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("dose", "response")
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 5), (-3, 10))
    assert parts(figure)[1].get_title() == "trial"


def test_marginals_are_the_sums_of_the_table_on_shared_axes():
    figure, ax = plot_joint(JOINT, X_EDGES, Y_EDGES)
    _, above, right, colors = parts(figure)
    for marginal, sums, edges in ((above, JOINT.sum(1), X_EDGES), (right, JOINT.sum(0), Y_EDGES)):
        data = marginal.patches[0].get_data()
        np.testing.assert_allclose(data.values, sums, rtol=1e-6)
        np.testing.assert_array_equal(data.edges, edges)
    ax.set_xlim(1, 2)
    ax.set_ylim(3, 4)
    assert (above.get_xlim(), right.get_ylim()) == ((1, 2), (3, 4))
    assert "probability" in colors.get_ylabel()


def test_the_colour_scale_is_logarithmic_and_ignores_traces():
    joint = torch.tensor([[0.9, 1e-17], [0.001, 0.099]])
    _, ax = plot_joint(joint, torch.arange(3.0), torch.arange(3.0))
    (mesh,) = ax.collections
    assert type(mesh.norm).__name__ == "LogNorm"
    assert (mesh.norm.vmin, mesh.norm.vmax) == pytest.approx((0.001, 0.9))
    assert mesh.get_array().mask.sum() == 1


@pytest.mark.parametrize(
    ("joint", "drawn"),
    [(torch.ones(1, 1), True), (torch.zeros(1, 1), False), (torch.full((1, 1), torch.nan), False)],
)
def test_one_cell_and_no_samples_can_be_drawn(joint, drawn, tmp_path):
    figure, ax = plot_joint(joint, torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    figure.savefig(tmp_path / "joint.png")
    assert (len(ax.collections) == 1) == drawn
    assert [text.get_text() for text in ax.texts] == ([] if drawn else ["no samples"])


def test_given_axes_share_their_place_with_the_marginals():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5))
    left, right = figure.subplots(1, 2)
    result, ax = plot_joint(JOINT, X_EDGES, Y_EDGES, ax=left)
    assert result is figure
    assert ax is left
    figure.draw_without_rendering()
    ends = [other.get_position().x1 for other in parts(figure) if other is not right]
    assert max(ends) < right.get_position().x0


def test_given_axes_without_a_figure_are_refused():
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    ax.remove()
    with pytest.raises(ValueError, match="belong to a figure"):
        plot_joint(JOINT, X_EDGES, Y_EDGES, ax=ax)


def test_pyplot_does_not_know_of_the_figure():
    from matplotlib import pyplot

    plot_joint(JOINT, X_EDGES, Y_EDGES)
    assert pyplot.get_fignums() == []


def test_a_metric_draws_its_own_state(rng, tmp_path):
    x = torch.randn(1_000, generator=rng)
    metric = BinnedMutualInformation((5, 8), value_range=((-3, 3), (-4, 4)))
    metric.update(x, x + torch.randn(1_000, generator=rng))
    figure, ax = metric.plot_joint()
    np.testing.assert_array_equal(ax.collections[0].get_array().filled(0), metric.joint().T)
    assert (ax.get_xlim(), ax.get_ylim()) == ((-3, 3), (-4, 4))
    assert parts(figure)[1].get_title() == f"mutual information {metric.compute():.3f} nats"
    figure.savefig(tmp_path / "joint.png")
    assert (tmp_path / "joint.png").stat().st_size > 1_000


def test_the_title_is_the_value_of_the_output_and_says_no_doubt(rng):
    x = torch.randn(100, 2, generator=rng)
    metric = BinnedMutualInformation(64, num_outputs=2, unit="bits")
    metric.update(x, x + torch.tensor([0.1, 1.0]) * torch.randn(100, 2, generator=rng))
    titles = [parts(metric.plot_joint(output)[0])[1].get_title() for output in range(2)]
    with pytest.warns(MutualInformationWarning, match="alone"):
        values = metric.compute()
    assert titles == [f"mutual information {value:.3f} bits" for value in values]
    metric = KDEMutualInformation(normalization="geometric")
    metric.update(*x.T)
    title = parts(metric.plot_joint()[0])[1].get_title()
    assert title == f"normalised mutual information {metric.compute():z.3f} (geometric)"


@pytest.mark.parametrize(
    ("joint", "x_edges", "y_edges"),
    [(JOINT.T, X_EDGES, Y_EDGES), (JOINT[None], X_EDGES, Y_EDGES), (JOINT, X_EDGES[:-1], Y_EDGES)],
)
def test_shapes_that_do_not_belong_together_are_refused(joint, x_edges, y_edges):
    with pytest.raises(ValueError, match=r"edges \(B_x \+ 1,\) and \(B_y \+ 1,\), but got"):
        plot_joint(joint, x_edges, y_edges)


def test_infinite_edges_are_refused():
    with pytest.raises(ValueError, match="finite `value_range`"):
        plot_joint(JOINT, X_EDGES, torch.tensor([-torch.inf, -2.0, 0.0, 10.0]))


def test_without_matplotlib_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mi-metrics\[plot\]"'):
        plot_joint(JOINT, X_EDGES, Y_EDGES)


class TestMatrices:
    NAMES = ("dose", "response", "a name that is too long to be shown")
    VALUES = torch.tensor(
        [[9.0, 0.3, -0.004], [0.3, 9.0, torch.nan], [-0.004, torch.nan, 9.0]], dtype=torch.float64
    )

    def panels(self, figure):
        return [ax for ax in figure.axes if ax.images]

    def test_values_colours_and_labels_are_those_of_the_pair(self):
        figure = plot_matrices(
            {"bins": self.VALUES}, self.NAMES, label="mutual information (bits)", title="t.csv"
        )
        (ax,) = self.panels(figure)
        shown = ax.images[0].get_array()
        assert shown.mask.tolist() == [
            [True, False, False],
            [False, True, True],
            [False, True, True],
        ]
        np.testing.assert_array_equal(shown.filled(9), self.VALUES.nan_to_num(9))
        written = {
            (int(text.get_position()[1]), int(text.get_position()[0])): text.get_text()
            for text in ax.texts
        }
        assert written == {
            (0, 1): "0.30", (1, 0): "0.30",
            (0, 2): "0.00", (2, 0): "0.00",
            (1, 2): "none", (2, 1): "none",
        }  # fmt: skip
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            assert [label.get_text() for label in labels] == [
                "dose",
                "response",
                "a name that is too long…",
            ]
        assert ax.get_title() == "bins"
        assert figure.get_suptitle() == "t.csv"
        assert "a column with itself, not estimated, or no value" in figure.get_supxlabel()
        assert "mutual information (bits)" in [other.get_ylabel() for other in figure.axes]

    def test_heat_maps_share_a_scale_from_zero_that_noise_does_not_fill(self):
        small = (2.5 * self.VALUES).clamp(-0.01, 0.001)
        figure = plot_matrices({"bins": self.VALUES, "knn": small}, self.NAMES, label="MI")
        assert [ax.get_title() for ax in self.panels(figure)] == ["bins", "knn"]
        assert [(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in self.panels(figure)] == [
            (-0.01, 0.3)
        ] * 2
        figure = plot_matrices({"knn": small}, self.NAMES, label="MI")
        assert self.panels(figure)[0].images[0].norm.vmax == 0.05

    def test_the_text_stands_out_from_its_cell(self):
        figure = plot_matrices({"bins": self.VALUES}, self.NAMES, label="MI")
        (ax,) = self.panels(figure)
        colors = {text.get_text(): text.get_color() for text in ax.texts}
        assert colors == {"0.30": "black", "0.00": "white", "none": "black"}

    @pytest.mark.parametrize(
        ("k", "written", "labels"), [(2, 2, 2), (12, 132, 12), (13, 0, 13), (150, 0, 50)]
    )
    def test_large_matrices_are_thinned_out(self, k, written, labels, tmp_path):
        figure = plot_matrices({"bins": torch.rand(k, k)}, [f"c{i}" for i in range(k)], label="MI")
        (ax,) = self.panels(figure)
        assert len(ax.texts) == written
        assert [label.get_text() for label in ax.get_xticklabels()] == [
            f"c{i}" for i in range(0, k, k // labels)
        ]
        assert "no value" not in figure.get_supxlabel()
        figure.savefig(tmp_path / "matrix.png")

    def test_nothing_but_gaps_can_be_drawn(self, tmp_path):
        figure = plot_matrices({"bins": torch.full((2, 2), torch.nan)}, ["a", "b"], label="MI")
        figure.savefig(tmp_path / "matrix.png")
        assert [text.get_text() for text in self.panels(figure)[0].texts] == ["none", "none"]

    @pytest.mark.parametrize(
        "matrices", [{}, {"bins": torch.zeros(2, 3)}, {"bins": torch.zeros(3, 3)}]
    )
    def test_other_shapes_are_refused(self, matrices):
        with pytest.raises(ValueError, match=r"matrices of shape \(2, 2\) for 2 names, but got"):
            plot_matrices(matrices, ["a", "b"], label="MI")

    def test_without_matplotlib_the_message_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ModuleNotFoundError, match=r'pip install "mi-metrics\[plot\]"'):
            plot_matrices({"bins": self.VALUES}, self.NAMES, label="MI")


class TestPointwise:
    VALUES = torch.tensor([[0.5, -1.0, torch.nan], [2.0, 0.0, -torch.inf]])

    def drawn(self, *args, **kwargs):
        figure, ax = plot_pointwise(*args, **kwargs)
        (image,) = ax.images
        (bar,) = (other for other in figure.axes if other is not ax)
        return figure, ax, image, bar

    def test_zero_is_white_and_signs_have_colours_of_their_own(self):
        _, ax, image, bar = self.drawn(self.VALUES, limit=2)
        colours = image.cmap(image.norm([0.0, 1.0, -1.0]))[:, :3]
        assert colours[0].min() > 0.95
        red, blue = colours[1:]
        assert red[0] > red[2] + 0.3
        assert blue[2] > blue[0] + 0.3
        assert (image.norm.vmin, image.norm.vmax) == (-2, 2)
        assert bar.get_ylabel() == "pointwise mutual information (nats)"
        assert ax.get_title() == "mean 0.375 nats"

    def test_rows_are_rows_of_the_image_and_nan_has_no_colour(self):
        _, _, image, _ = self.drawn(self.VALUES)
        shown = image.get_array()
        assert shown.mask.tolist() == [[False, False, True], [False, False, True]]
        np.testing.assert_array_equal(shown.filled(0), [[0.5, -1.0, 0], [2.0, 0, 0]])
        assert image.cmap.get_bad()[3] == 0

    def test_rare_values_do_not_stretch_the_scale(self):
        values = torch.linspace(-0.9, 1, 10_000).view(100, 100)
        values[0, :10] = 50.0
        _, _, image, _ = self.drawn(values)
        assert image.norm.vmax == -image.norm.vmin < 1.01
        assert image.colorbar.extend == "max"

    def test_unit_title_and_axes(self):
        from matplotlib.figure import Figure

        own = Figure().add_subplot()
        figure, ax, _, bar = self.drawn(self.VALUES, unit="bits", ax=own, title="stains")
        assert ax is own
        assert figure is own.figure
        assert ax.get_title() == "stains"
        assert bar.get_ylabel() == "pointwise mutual information (bits)"

    def test_all_zero_and_no_values(self):
        self.drawn(torch.zeros(3, 3))
        figure, ax = plot_pointwise(torch.full((2, 2), torch.nan))
        assert ax.get_title() == "no values"
        assert figure.axes == [ax]

    @pytest.mark.parametrize(
        ("values", "options", "error", "message"),
        [
            (torch.zeros(1, 4, 4), {}, ValueError, r"\(H, W\), but got \(1, 4, 4\)"),
            (torch.zeros(0, 4), {}, ValueError, r"\(H, W\)"),
            (torch.zeros(2, 2), {"unit": "hartleys"}, ValueError, "'nats', 'bits'"),
            (torch.zeros(2, 2), {"limit": 0}, ValueError, "`limit` to be a positive number"),
            (torch.zeros(2, 2), {"limit": "1"}, TypeError, "`limit` to be a number"),
        ],
    )
    def test_errors(self, values, options, error, message):
        with pytest.raises(error, match=message):
            plot_pointwise(values, **options)


@pytest.mark.parametrize("values", [[[1.0]], torch.zeros(2, 2, dtype=torch.complex64)])
def test_pointwise_values_are_a_real_tensor(values):
    with pytest.raises(TypeError, match="Expected `values` to be"):
        plot_pointwise(values)

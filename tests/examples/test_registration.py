"""Mutual information as a training loss, on two stains of one slide."""

import contextlib
import csv
import io
import sys
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("skimage")
pytest.importorskip("tensorboard")

from lightning.pytorch import LightningModule
from torch import nn

from mi_metrics import KDEMutualInformationLoss, MutualInformationLoss
from mi_metrics.examples import AffineRegistration, RegistrationReport, StainsDataModule
from mi_metrics.examples.affine import blur, compose, mean_displacement, pixel_grid, sample
from mi_metrics.examples.registration import AffineSearch
from mi_metrics.examples.stains import load_stains
from mi_metrics.functional import binned_mutual_information
from mi_metrics.lightning.cli import main as run
from tests.lightning.marks import lightning_cli

pytestmark = lightning_cli

IDENTITY = torch.eye(2, 3)


def fit(folder, *options):
    text = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
    ):
        cli = run(
            ["fit", "--config", "registration", "--trainer.enable_progress_bar=false", *options]
        )
    (report,) = (c for c in cli.trainer.callbacks if isinstance(c, RegistrationReport))
    return SimpleNamespace(cli=cli, model=cli.model, report=report, printed=text.getvalue())


def pair(**options):
    data = StainsDataModule(**options)
    data.setup()
    return next(iter(data.val_dataloader()))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The bundled configuration, as it is."""
    folder = tmp_path_factory.mktemp("registration")
    result = fit(folder)
    result.folder = folder
    result.run = folder / result.cli.trainer.log_dir
    return result


@pytest.mark.slow
class TestBundledConfiguration:
    """One full run."""

    def test_mutual_information_registers_what_the_squared_error_does_not(self, fitted):
        (start, _), (mse, _), (mi, _) = fitted.report.rows.values()
        assert list(fitted.report.rows) == ["start", "MSELoss", "MutualInformationLoss"]
        assert start == pytest.approx(11, abs=1e-3)
        assert mi < 0.5
        assert mse > start

    def test_the_metric_says_so_without_the_truth(self, fitted):
        (_, start), (_, mse), (_, mi) = fitted.report.rows.values()
        assert mi > 2 * start
        assert mi > 2 * mse

    def test_the_table_and_the_log_have_the_same_values(self, fitted):
        with (fitted.run / "metrics.csv").open(newline="") as file:
            last = [row for row in csv.DictReader(file) if row["val/nmi"]][-1]
        rows = fitted.report.rows
        assert (float(last["val/residual_px"]), float(last["val/nmi"])) == pytest.approx(
            rows["MutualInformationLoss"]
        )
        assert float(last["val/baseline_residual_px"]) == pytest.approx(rows["MSELoss"][0])
        for name, (residual, nmi) in rows.items():
            (line,) = (line for line in fitted.printed.splitlines() if line.split()[:1] == [name])
            assert line.split()[1:] == [f"{residual:.2f}", f"{nmi:.4f}"]

    def test_the_figure_is_saved_and_named_relative_to_here(self, fitted):
        assert "figure: runs/registration/version_0/registration.png" in fitted.printed.splitlines()
        assert (fitted.run / "registration.png").read_bytes().startswith(b"\x89PNG")
        assert str(fitted.folder) not in fitted.printed
        assert "site-packages" not in fitted.printed

    def test_the_checkpoint_has_the_map(self, fitted):
        path = fitted.run / "checkpoints" / "last.ckpt"
        model = AffineRegistration.load_from_checkpoint(
            path, baseline=nn.MSELoss(), weights_only=True
        )
        assert torch.equal(model.search.best(208), fitted.model.search.best(208).cpu())

    def test_the_configuration_has_the_module_s_own_defaults(self, fitted):
        default = AffineRegistration()
        assert fitted.model.blurs == default.blurs
        assert fitted.model.learning_rate == default.learning_rate
        assert repr(fitted.model.search.criterion) == repr(default.search.criterion)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_other_deformations_are_recovered_too(tmp_path, seed):
    rows = fit(tmp_path, f"--data.init_args.seed={seed}", "--trainer.logger=false").report.rows
    assert rows["start"][0] > 10
    assert rows["MutualInformationLoss"][0] < 0.5
    assert rows["MSELoss"][0] > 10


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["torch.nn.MSELoss", "mi_metrics.KDEMutualInformationLoss"])
def test_the_loss_can_be_swapped_with_one_option(tmp_path, criterion):
    short = [
        "--trainer.max_epochs=1",
        "--data.init_args.steps_per_epoch=2",
        "--trainer.logger=false",
    ]
    result = fit(tmp_path, f"--model.init_args.criterion={criterion}", *short)
    assert type(result.model.search.criterion).__name__ == criterion.split(".")[-1]
    assert list(result.report.rows)[-1] == criterion.split(".")[-1]


@pytest.mark.slow
def test_fast_dev_run_writes_no_file(tmp_path):
    fit(tmp_path, "--trainer.fast_dev_run=1", "--model.init_args.baseline=null")
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_another_module_is_refused():
    with pytest.raises(
        TypeError, match=r"Expected an AffineRegistration to report, but got a LightningModule\."
    ):
        RegistrationReport().setup(None, LightningModule(), "fit")


class TestStains:
    """The pair of images."""

    def test_the_stains_are_registered_and_do_not_look_alike(self):
        x, y = load_stains()
        assert x.shape == y.shape == (1, 256, 256)
        assert 0 == x.min() < x.max() == 1
        assert -0.4 < torch.corrcoef(torch.stack((x.flatten(), y.flatten())))[0, 1] < -0.1
        here = binned_mutual_information(x.flatten(), y.flatten(), 32)
        there = binned_mutual_information(x[..., 5:].flatten(), y[..., :-5].flatten(), 32)
        assert here > 1.3 * there

    @pytest.mark.parametrize("seed", range(5))
    def test_the_deformation_is_as_large_as_asked_for_and_undoes_to_the_stain(self, seed):
        fixed, moving, truth = pair(seed=seed)
        grid = pixel_grid(208)
        assert fixed.shape == moving.shape == (1, 1, 208, 208)
        assert mean_displacement(truth[0], grid) == pytest.approx(11, abs=1e-3)
        assert not torch.allclose(truth[0, :, :2], torch.eye(2), atol=0.005)
        inverse = torch.linalg.inv(torch.cat((truth[0], torch.tensor([[0.0, 0, 1]]))))[:2]
        seen, inside = sample(moving, inverse, grid)
        original = load_stains()[1:, :, 24:-24, 24:-24]
        assert (seen - original)[inside].abs().mean() < 0.05
        assert (moving - original)[inside].abs().mean() > 0.1

    def test_a_seed_is_a_deformation(self):
        assert torch.equal(pair(seed=3)[1], pair(seed=3)[1])
        assert not torch.equal(pair(seed=3)[1], pair(seed=4)[1])

    def test_too_large_a_deformation_is_refused(self):
        with pytest.raises(ValueError, match="Lower `displacement` or `size`"):
            StainsDataModule(displacement=200).setup()

    def test_batches_before_setup_are_refused(self):
        with pytest.raises(RuntimeError, match=r"Expected setup\(\)"):
            StainsDataModule().train_dataloader()

    def test_training_repeats_the_pair(self):
        data = StainsDataModule(steps_per_epoch=3)
        data.setup("fit")
        assert [len(loader) for loader in (data.train_dataloader(), data.val_dataloader())] == [
            3,
            1,
        ]

    def test_without_scikit_image_the_message_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "skimage.color", None)
        with pytest.raises(ModuleNotFoundError, match=r'pip install "mi-metrics\[demo\]"'):
            StainsDataModule().setup()


class TestAffine:
    """The maps."""

    def test_a_translation_by_a_pixel(self, rng):
        image = torch.rand(1, 1, 8, 8, generator=rng)
        shift = IDENTITY.clone()
        shift[0, 2] = 2 / 8
        grid = pixel_grid(8)
        seen, inside = sample(image, shift, grid)
        torch.testing.assert_close(seen[..., :-1], image[..., 1:], rtol=0, atol=1e-6)
        assert inside[..., :-1].all()
        assert not inside[..., -1].any()
        assert mean_displacement(shift, grid) == pytest.approx(1)

    def test_composition_applies_the_inner_first(self, rng):
        outer, inner = torch.randn(2, 2, 3, generator=rng)
        point = torch.tensor([0.3, -0.2, 1.0])
        expected = outer @ torch.cat((inner @ point, torch.ones(1)))
        torch.testing.assert_close(compose(outer, inner) @ point, expected)

    def test_blur_agrees_with_scipy(self, rng):
        from scipy.ndimage import gaussian_filter

        image = torch.rand(1, 1, 32, 32, generator=rng)
        expected = gaussian_filter(image[0, 0].numpy(), 1.5, mode="nearest", radius=5)
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        torch.testing.assert_close(
            blur(image, 1.5)[0, 0], torch.as_tensor(expected), rtol=0, atol=1e-5
        )
        assert blur(image, 0).aminmax() == (0, 1)


class TestSearch:
    """The starts and what becomes of them."""

    def test_the_identity_is_the_first_answer(self):
        assert torch.equal(AffineSearch(nn.MSELoss(), 8.0).best(100), IDENTITY)

    @pytest.mark.parametrize(
        "criterion", [nn.MSELoss(), MutualInformationLoss(8), KDEMutualInformationLoss()]
    )
    def test_every_start_has_its_own_loss_and_the_better_half_goes_on(self, rng, criterion):
        search = AffineSearch(criterion, 4.0)
        image = torch.rand(1, 1, 32, 32, generator=rng)
        total = search(image, image, 1)
        total.backward()
        assert total.item() == pytest.approx(search.losses.sum().item(), rel=1e-5)
        assert search.losses.argmin() == 0
        kept = search.losses.argsort()[:4].tolist()
        for left in (4, 2, 1, 1):
            search.halve()
            assert search.losses.isfinite().nonzero().flatten().tolist() == sorted(kept[:left])

    @pytest.mark.parametrize(
        "criterion", [nn.MSELoss(), MutualInformationLoss(8), KDEMutualInformationLoss()]
    )
    def test_a_map_that_has_left_the_image_is_dropped(self, rng, criterion):
        search = AffineSearch(criterion, 100.0)
        image = torch.rand(1, 1, 32, 32, generator=rng)
        search(image, image, 1).backward()
        assert search.losses.isfinite().tolist() == [True] + 8 * [False]
        assert all(step.grad is None or step.grad.isfinite().all() for step in search.steps)

    def test_blurs_are_checked(self):
        with pytest.raises(
            ValueError, match=r"`blurs` to be positive numbers, one for each epoch, but got \[\]"
        ):
            AffineRegistration(blurs=[])

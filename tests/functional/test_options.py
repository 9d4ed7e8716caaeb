"""Options: unknown keywords and missing extras, word for word."""

import builtins
import functools
import inspect
import pickle
import re
import sys
import types

import pytest
import torch
from torchmetrics import Metric

import mi_metrics as mi
from mi_metrics import functional as f
from mi_metrics.functional import options
from mi_metrics.functional.options import MissingExtraError, check_flag, require
from mi_metrics.metrics.base import UPSTREAM

X, Y = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))


class Mine(mi.BinnedMutualInformation):
    """A user's metric with an argument of its own."""

    def __init__(self, threshold: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold


class Inherits(mi.BinnedMutualInformation):
    """A user's metric that is built as ours."""


def call(function, **kwargs):
    return functools.partial(function, X, Y, **kwargs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            functools.partial(mi.BinnedMutualInformation().interval, alpha=0.05),
            "Expected arguments that BinnedMutualInformation.interval has, but got `alpha`. It has "
            "`level`, `num_resamples`, `seed`.",
        ),
        (
            functools.partial(mi.KNNMutualInformation().p_value, permutations=9),
            "Expected arguments that KNNMutualInformation.p_value has, but got `permutations`. Did "
            "you mean `num_permutations`?",
        ),
        (
            functools.partial(mi.BinnedMutualInformation, bins=10),
            "Expected arguments that BinnedMutualInformation has, but got `bins`. Did you mean "
            "`num_bins`?",
        ),
        (
            functools.partial(mi.KDEMutualInformation, bins=10),
            "Expected arguments that KDEMutualInformation has, but got `bins`. Did you mean "
            "`grid_size`?",
        ),
        (
            functools.partial(mi.KNNMutualInformation, k=5),
            "Expected arguments that KNNMutualInformation has, but got `k`. Did you mean "
            "`n_neighbors`?",
        ),
        (
            functools.partial(mi.GaussianMutualInformation, base=2),
            "Expected arguments that GaussianMutualInformation has, but got `base`. Did you mean "
            "`unit`?",
        ),
        (
            functools.partial(mi.BinnedMutualInformation, mask=X > 0),
            "Expected arguments that BinnedMutualInformation has, but got `mask`. Give it with the "
            "samples, beside `x` and `y`.",
        ),
        (
            functools.partial(Mine, 0.5, bins=10),
            "Expected arguments that BinnedMutualInformation has, but got `bins`. Did you mean "
            "`num_bins`?",
        ),
        (
            functools.partial(Inherits, normalisation="max"),
            "Expected arguments that Inherits has, but got `normalisation`. Did you mean "
            "`normalization`?",
        ),
        (
            functools.partial(mi.MutualInformationLoss, bins=8),
            "Expected arguments that MutualInformationLoss has, but got `bins`. Did you mean "
            "`num_bins`?",
        ),
        (
            functools.partial(mi.MutualInformationPenalty, pooling="batch"),
            "Expected arguments that MutualInformationPenalty has, but got `pooling`. Did you mean "
            "`pool`?",
        ),
        (
            functools.partial(mi.KDEMutualInformationLoss, sigma=1.0),
            "Expected arguments that KDEMutualInformationLoss has, but got `sigma`. Did you mean "
            "`bandwidth`?",
        ),
        (
            call(f.binned_mutual_information, bins=10),
            "Expected arguments that binned_mutual_information has, but got `bins`. Did you mean "
            "`num_bins`?",
        ),
        (
            call(f.binned_mutual_information, mask=X > 0),
            "Expected arguments that binned_mutual_information has, but got `mask`. Give "
            "`weights`, which are 0 where the mask is False.",
        ),
        (
            call(f.knn_mutual_information, mask=X > 0),
            "Expected arguments that knn_mutual_information has, but got `mask`. Select the "
            "samples first: x[mask] and y[mask].",
        ),
        (
            call(f.kde_joint, bw_method="scott"),
            "Expected arguments that kde_joint has, but got `bw_method`. Did you mean `bandwidth`?",
        ),
        (
            call(f.gaussian_mutual_information, qqqq=1),
            "Expected arguments that gaussian_mutual_information has, but got `qqqq`. It has `x`, "
            "`y`, `copula`, `bias_correction`, `unit`.",
        ),
    ],
)
def test_an_unknown_keyword_is_answered_with_the_one_that_was_meant(wrong, message):
    with pytest.raises(TypeError) as caught:
        wrong()
    assert str(caught.value) == message


@pytest.mark.parametrize("name", f.__all__)
def test_every_function_hints(name):
    with pytest.raises(TypeError, match=f"^Expected arguments that {name} has, but got `qqqq`"):
        getattr(f, name)(qqqq=1)


def test_what_is_wrapped_looks_as_it_is_written():
    parameters = inspect.signature(f.binned_mutual_information).parameters
    assert list(parameters)[:3] == ["x", "y", "num_bins"]
    assert parameters["unit"].default == "nats"
    assert pickle.loads(pickle.dumps(f.kde_joint)) is f.kde_joint
    assert "self" in inspect.signature(mi.KNNMutualInformation.__init__).parameters


def test_the_options_of_torchmetrics_are_known():
    source = inspect.getsource(Metric.__init__)
    assert set(re.findall(r'kwargs\.pop\("(\w+)"', source)) == UPSTREAM
    for name, value in (("sync_on_compute", False), ("compute_with_cache", False)):
        assert getattr(mi.BinnedMutualInformation(**{name: value}), name) is value


def test_every_alias_leads_to_an_option_of_this_package():
    calls = [*(getattr(f, name) for name in f.__all__)]
    calls += [getattr(mi, name) for name in mi.__all__ if name.endswith(("Loss", "Information"))]
    known = {name for c in calls for name in inspect.signature(c).parameters}
    coming = {"num_conditions", "seed"}
    for names in options.ALIASES.values():
        assert set(names) <= known | coming
    assert not options.ALIASES.keys() & known - {"method"}


REPEATING = [
    (name, option)
    for name in f.__all__
    for option in ("num_permutations", "num_resamples")
    if option in inspect.signature(getattr(f, name)).parameters
]


@pytest.mark.parametrize(("name", "option"), REPEATING)
@pytest.mark.parametrize("number", [10**8 + 1, 2**40, 10**400])
def test_what_would_never_end_is_refused(name, option, number):
    function = getattr(f, name)
    needed = [
        torch.ones(3, 3, dtype=torch.int64) if p.name == "counts" else torch.rand(20, 2)
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty
    ]
    with pytest.raises(ValueError, match=rf"^Expected `{option}` to be at most 10\*\*8, but got "):
        function(*needed, **{option: number})


@pytest.mark.parametrize("value", [1, 0, "yes", None, 1.0])
def test_a_flag_is_true_or_false(value):
    with pytest.raises(TypeError) as caught:
        check_flag("gather", value)
    expected = f"Expected `gather` to be True or False, but got {value!r}. Pass a bool."
    assert str(caught.value) == expected
    for build in (
        lambda: f.knn_mutual_information(X, Y, discrete_y=value),
        lambda: mi.KNNMutualInformation(discrete_y=value),
        lambda: mi.MutualInformationLoss(gather=value),
        lambda: f.gaussian_mutual_information(X, Y, copula=value),
    ):
        with pytest.raises(TypeError, match=r"to be True or False, but got .* Pass a bool"):
            build()


class TestRequire:
    def test_returns_the_module(self):
        assert require("json.decoder", "cli", "Tests") is sys.modules["json.decoder"]

    @pytest.mark.parametrize(
        ("module", "named"),
        [("sklearn.datasets", "scikit-learn"), ("pyarrow", "PyArrow"), ("tqdm", "tqdm")],
    )
    def test_names_the_extra(self, module, named, monkeypatch):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError) as caught:
            require(module, "demo", "The examples")
        assert str(caught.value) == (
            f'The examples need {named}. Install it with: pip install "mi-metrics[demo]"'
        )
        assert isinstance(caught.value, ModuleNotFoundError)
        assert caught.value.name == module

    def test_what_a_dependency_lacks_is_its_own_matter(self, monkeypatch):
        def lacking(name, *args, **kwargs):
            if name == "mi_test_part":
                raise ModuleNotFoundError("No module named 'mi_test_part'", name="mi_test_part")
            return original(name, *args, **kwargs)

        original = builtins.__import__
        monkeypatch.setattr(
            options.importlib, "import_module", lambda name: lacking("mi_test_part")
        )
        with pytest.raises(ModuleNotFoundError) as caught:
            require("mi_test_whole", "demo", "The examples")
        assert not isinstance(caught.value, MissingExtraError)


def test_names_and_types_are_one():
    for name, value in vars(options).items():
        if name.isupper() and isinstance(value, tuple):
            assert all(isinstance(v, str) for v in value)
    assert isinstance(options, types.ModuleType)

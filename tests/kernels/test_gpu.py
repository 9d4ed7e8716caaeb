"""Kernels for GPUs: found, refused, switched off; right under Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from mi_metrics.kernels import gpu, switch

HERE = Path(__file__).parent
# Whether Triton interprets kernels in the tests of a folder.
FOLDERS = {"interpreted": "1", "compiled": "0"}
FILES = [
    f"{folder}/{path.name}"
    for folder in FOLDERS
    for path in sorted((HERE / folder).glob("[a-z]*.py"))
    if path.stem != "conftest"
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_kernels_pass_their_tests(name):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; `make kernels` installs it and runs these tests")
    interpret = FOLDERS[name.split("/")[0]]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", HERE / name],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": interpret, "MI_METRICS_KERNELS": ""},
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    monkeypatch.delenv(switch.VARIABLE, raising=False)


@pytest.fixture
def anew():
    """Forget what is known of Triton and of kernels, before and after a test."""
    load, known = gpu.load, dict(gpu._failed)
    load.cache_clear()
    gpu._failed.clear()
    yield
    load.cache_clear()
    gpu._failed.clear()
    gpu._failed.update(known)


@pytest.fixture
def served(anew, monkeypatch):
    """Let all tensors seem to be on a card that Triton serves, by kernels that are not there."""
    monkeypatch.setattr(gpu, "is_card", lambda values: True)
    monkeypatch.setattr(gpu, "load", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_tensors_of_the_cpu_ask_for_no_kernel():
    assert not gpu.serves(torch.ones(3))
    assert gpu.attempt("hard", (torch.ones(3),), lambda kernels: 1) is None
    assert gpu.failures() == {}


def test_without_a_card_the_status_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in gpu.status()
    with switch.disabled():
        assert "switched off (MI_METRICS_KERNELS=0" in gpu.status()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "Triton is not installed."),
        ("import nothing_of_this_name", "Triton does not load (No module named"),
        ("raise OSError('libcuda.so.1')", "Triton does not load (OSError: libcuda.so.1)."),
    ],
)
def test_an_absent_or_broken_triton_is_said_to_be(anew, monkeypatch, tmp_path, source, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if source is None:
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.setattr(
            gpu.importlib,
            "import_module",
            lambda name: (_ for _ in ()).throw(ModuleNotFoundError(name=name)),
        )
    else:
        monkeypatch.delitem(sys.modules, "triton", raising=False)
        (tmp_path / "triton.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
    assert said in gpu.status()
    monkeypatch.setattr(gpu, "is_card", lambda values: True)
    assert not gpu.serves(torch.ones(3))


def test_a_kernel_that_fails_is_not_tried_again_and_says_why(served, monkeypatch):
    calls = []
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: name)

    def call(kernels):
        calls.append(kernels)
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    for _ in range(2):
        assert gpu.attempt("hard", (torch.ones(3),), call) is None
    assert calls == ["mi_metrics.kernels.triton_hard"]
    assert "hard: RuntimeError: Failed to find C compiler.)" in gpu.status()
    assert gpu.attempt("other", (torch.ones(3),), lambda kernels: 7) == 7


def test_a_kernel_that_finds_no_memory_is_tried_again(served, monkeypatch):
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: name)

    def call(kernels):
        raise torch.cuda.OutOfMemoryError

    assert gpu.attempt("hard", (torch.ones(3),), call) is None
    assert gpu.attempt("hard", (torch.ones(3),), lambda kernels: 7) == 7
    assert gpu.failures() == {}


def test_a_kernel_that_fails_for_a_dtype_serves_others(served, monkeypatch):
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: name)

    def call(kernels):
        raise RuntimeError("Feature '.bf16' requires .target sm_80 or higher")

    x = torch.ones(3)
    assert gpu.attempt("soft", (x.bfloat16(), x), call) is None
    assert list(gpu.failures()) == ["soft"]
    assert gpu.attempt("soft", (x, x.bfloat16()), lambda kernels: 7) is None
    assert gpu.attempt("soft", (x, x), lambda kernels: 7) == 7


@pytest.mark.parametrize("capturing", [False, True])
def test_a_failure_that_tells_nothing_of_other_calls_switches_nothing_off(
    served, monkeypatch, capturing
):
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: capturing)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    said = "operation not permitted when stream is capturing" if capturing else "out of memory"

    def call(kernels):
        raise RuntimeError(f"Triton Error [CUDA]: {said}")

    assert gpu.attempt("hard", (torch.ones(3),), call) is None
    assert gpu.failures() == {}


def test_tensors_without_memory_are_not_served(served):
    x, seen = torch.rand(2, 3), []
    assert gpu.serves(x)

    def look(v):
        seen.append(gpu.serves(v))
        return v.sum()

    torch.func.grad(look)(x)
    torch.vmap(look)(x)
    assert seen == [False, False]
    with switch.disabled():
        assert not gpu.serves(x)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_an_operation_that_is_recorded_is_not_served(served):
    x, seen = torch.rand(2, 3), []

    def look(v):
        seen.append(gpu.serves(v))
        return v + 1

    torch.jit.trace(look, (x,), check_trace=False)
    make_fx(look)(x)
    torch.autograd.functional.jacobian(lambda v: v * look(torch.ones(2, 3)), x)
    assert seen == [False, False, True]


def test_a_tensor_of_no_memory_is_not_served(served):
    with FakeTensorMode() as mode:
        fakes = torch.empty(3), mode.from_tensor(torch.rand(3))
        seen = [gpu.serves(v) for v in fakes]
    assert seen + [gpu.serves(v) for v in fakes] == [False] * 4
    assert gpu.serves(torch.empty(0))
    assert gpu.serves(torch.nn.Parameter(torch.rand(3)))


def test_any_tensor_that_is_read_may_refuse(served, monkeypatch):
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: name)
    x, found = torch.rand(2, 3), []

    def gradient(v):
        found.append(gpu.attempt("soft", (x, None, v), lambda kernels: 7))
        return v

    # Batches of gradients, by an older `vmap` than that of `torch.func`.
    torch.autograd.functional.jacobian(_Backward(gradient), x, vectorize=True)
    assert found == [None]
    assert gpu.attempt("soft", (x, None, torch.empty(3, device="meta")), lambda kernels: 7) is None
    assert gpu.attempt("soft", (x, None, x), lambda kernels: 7) == 7
    assert gpu.failures() == {}


class _Backward:
    """The identity, whose gradient goes through a function."""

    def __init__(self, gradient):
        self.gradient = gradient

    def __call__(self, x):
        y = x * 1
        y.register_hook(self.gradient)
        return y


def test_a_mistake_of_the_caller_is_no_failure_of_a_kernel(served, monkeypatch):
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: name)

    def raises(error):
        def call(kernels):
            raise error

        return gpu.attempt("hard", (torch.ones(3),), call)

    with pytest.raises(ValueError, match="No neighbors"):
        raises(gpu.ArgumentsError("No neighbors."))
    assert raises(NotImplementedError("Cannot access storage of BatchedTensorImpl")) is None
    assert gpu.failures() == {}
    # Triton raises it for a tensor that is not on the card.
    assert raises(ValueError("Pointer argument (at 0) cannot be accessed from Triton")) is None
    assert list(gpu.failures()) == ["hard"]


def test_a_call_that_asks_a_card_for_too_much_does_not_switch_others_off(served, monkeypatch):
    errors = types.ModuleType("triton.runtime.errors")
    errors.OutOfResources = type("OutOfResources", (Exception,), {})
    monkeypatch.setitem(sys.modules, "triton.runtime.errors", errors)
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: name)

    def call(kernels):
        raise errors.OutOfResources

    assert gpu.attempt("hard", (torch.ones(3),), call) is None
    assert gpu.failures() == {}


def test_pytorch_for_rocm_is_not_served(anew, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "ROCm" in gpu.load()


def test_work_on_the_cpu_imports_no_triton(tmp_path):
    (tmp_path / "triton.py").write_text("print('imported')")
    code = (
        "import sys, torch, torchmetrics; sys.modules.pop('triton', None); print('then')\n"
        "import mi_metrics; from mi_metrics.functional import binned_mutual_information\n"
        "x = torch.rand(100); metric = mi_metrics.BinnedMutualInformation(4); metric.update(x, x)\n"
        "metric.compute(); binned_mutual_information(x, x, 4, kernel='cubic')\n"
        "mi_metrics.MutualInformationLoss(4)(*torch.rand(2, 1, 1, 50)).item()\n"
        "mi_metrics.functional.knn_mutual_information(x, x * x)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        },
        cwd=HERE.parents[1],
    )
    assert done.stdout.split("then")[1].strip() == ""

"""Options and settings that every test shares."""

import hypothesis
import pytest
import torch

from mi_metrics.kernels import gpu, native

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", help="device on which the tests run: cpu, cuda, cuda:1, ..."
    )
    parser.addoption(
        "--threads", type=int, default=1, help="number of threads of torch (default: 1)"
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(config.getoption("--threads"))


def pytest_report_header() -> list[str]:
    return [native.status(), gpu.status()]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)

"""Options and settings that every test shares."""

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", help="device on which the tests run: cpu, cuda, cuda:1, ..."
    )


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)

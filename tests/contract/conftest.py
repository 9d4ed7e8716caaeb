import pytest
import torch

from tests.contract.cases import CASES, Case
from tests.contract.ranks import Ranks, shared_ranks


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest, device: torch.device) -> Case:
    return request.param.on(device)


@pytest.fixture
def ranks() -> Ranks:
    return shared_ranks()

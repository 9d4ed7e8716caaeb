import sys
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from mi_metrics.examples import DigitsDataModule


def images(loader):
    return torch.cat([x for x, _ in loader])


def loaders(data):
    data.setup()
    return data.train_dataloader(), data.val_dataloader(), data.test_dataloader()


def on_rank(rank, world):
    data = DigitsDataModule(batch_size=50)
    data.trainer = SimpleNamespace(world_size=world, global_rank=rank)
    return loaders(data)


def test_every_scan_is_in_one_part():
    parts = [images(loader) for loader in loaders(DigitsDataModule())]
    assert [len(part) for part in parts] == [1079, 359, 359]
    together = torch.cat(parts)
    assert together.shape == (1797, 1, 8, 8)
    assert len(together.unique(dim=0)) == 1797
    assert torch.equal(together.unique(), torch.arange(17) / 16)


def test_labels_belong_to_the_scans():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, labels = next(iter(loaders(DigitsDataModule(batch_size=7))[2]))
    assert labels.dtype == torch.int64
    for image, label in zip(x, labels, strict=True):
        (row,) = (digits.images == (16 * image[0]).numpy()).all((1, 2)).nonzero()[0]
        assert digits.target[row] == label


def test_the_split_is_the_same_in_every_run_and_evaluation_is_in_order():
    torch.manual_seed(1)
    first = loaders(DigitsDataModule())
    torch.manual_seed(2)
    second = loaders(DigitsDataModule(batch_size=17))
    for a, b in zip(first[1:], second[1:], strict=True):
        assert torch.equal(images(a), images(b))
    assert torch.equal(images(first[0]).unique(dim=0), images(second[0]).unique(dim=0))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_evaluate_every_scan_once_and_train_equally_long(world):
    alone = loaders(DigitsDataModule())
    ranks = [on_rank(rank, world) for rank in range(world)]
    for part in (1, 2):
        shares = [images(loaders_of_rank[part]) for loaders_of_rank in ranks]
        assert sum(map(len, shares)) == 359
        assert torch.equal(torch.cat(shares).unique(dim=0), images(alone[part]).unique(dim=0))
    assert len({len(loaders_of_rank[0]) for loaders_of_rank in ranks}) == 1


def test_without_scikit_learn_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mi-metrics\[demo\]"'):
        DigitsDataModule().setup()

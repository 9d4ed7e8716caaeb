"""Samples of small batches wait until the table is read: whoever looks, and however, sees them."""

import copy
import io
import pickle

import pytest
import torch
from torchmetrics import MetricCollection

from mi_metrics import BinnedMutualInformation, KDEMutualInformation
from mi_metrics.metrics import table as joint_tables

BUILT = {
    "unknown": lambda **kwargs: BinnedMutualInformation(8, resolution=16, **kwargs),
    "known": lambda **kwargs: BinnedMutualInformation(8, value_range=(-3, 3), **kwargs),
    "wide": lambda **kwargs: BinnedMutualInformation(8, value_range=(-1.7e308, 1.7e308), **kwargs),
    "soft": lambda **kwargs: BinnedMutualInformation(
        8, value_range=(-3, 3), kernel="cubic", **kwargs
    ),
    "outputs": lambda **kwargs: BinnedMutualInformation(8, resolution=16, num_outputs=2, **kwargs),
    "densities": lambda **kwargs: KDEMutualInformation(**kwargs),
    "ignore": lambda **kwargs: BinnedMutualInformation(
        8, resolution=16, nan_strategy="ignore", **kwargs
    ),
}


@pytest.fixture(params=BUILT.values(), ids=BUILT)
def build(request):
    return request.param


def batch(metric, n, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, metric.num_outputs) if metric.num_outputs > 1 else (n,)
    x, noise = torch.randn(2, *shape, generator=generator).to(dtype)
    return x, 0.6 * x + 0.8 * noise


def waits(metric):
    return "table" not in vars(metric)


def without(metric):
    """Return a copy in which nothing waits, with the states that a metric of none waiting has."""
    at_once = metric.clone()
    at_once.reset()
    return at_once


def saved(metric):
    metric.persistent(True)
    return metric.state_dict()


def loaded(metric):
    other = without(metric)
    other.persistent(True)
    other.load_state_dict(saved(metric))
    return other


def written(metric):
    file = io.BytesIO()
    torch.save(metric, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def merged(metric):
    other = without(metric)
    other.merge_state(metric)
    return other


LOOKS = {
    "attribute": lambda metric: metric.table,
    "states": lambda metric: metric.metric_state["table"],
    "saved": lambda metric: saved(metric)["table"],
    "loaded": lambda metric: loaded(metric).table,
    "clone": lambda metric: metric.clone().table,
    "copy": lambda metric: copy.deepcopy(metric).table,
    "pickle": lambda metric: pickle.loads(pickle.dumps(metric)).table,
    "file": lambda metric: written(metric).table,
    "merged": lambda metric: merged(metric).table,
    "moved": lambda metric: metric.double().to("cpu").table,
    "hash": lambda metric: hash(metric) and metric.table,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_every_look_sees_all_samples(build, look):
    metric, expected = build(), build()
    for seed in range(3):
        metric.update(*batch(metric, 20, seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint_tables, "MOST_WAITING", 0)
        for seed in range(3):
            expected.update(*batch(metric, 20, seed))
            assert not waits(expected)
    assert torch.equal(look(metric), expected.table)
    assert torch.equal(metric.table, expected.table)
    # Those that came later, too.
    metric.update(*batch(metric, 20, 4))
    expected.update(*batch(metric, 20, 4))
    assert torch.equal(look(metric), expected.table)


def test_the_state_does_not_depend_on_what_waits(build):
    generator = torch.Generator().manual_seed(0)
    for seed in range(6):
        metric, expected = build(), build()
        for step in range(12):
            n = int(torch.randint(1, 3000, (), generator=generator))
            wide = bool(torch.randint(0, 3, (), generator=generator) == 0)
            what = int(torch.randint(0, 8, (), generator=generator))
            x, y = batch(metric, n, 100 * seed + step, torch.float64 if wide else torch.float32)
            mask = torch.rand(x.shape, generator=generator) < 0.8 if what == 0 else None
            call = metric.forward if what == 1 else metric.update
            call(x, y.float() if what == 2 else y, mask)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(joint_tables, "MOST_WAITING", 0)
                expected.update(x, y.float() if what == 2 else y, mask)
            if what == 3:
                metric = pickle.loads(pickle.dumps(metric))
        assert torch.equal(metric.counters, expected.counters)
        assert torch.equal(metric.table, expected.table)


def test_nothing_waits_after_a_reset_and_no_batch_that_was_refused(build):
    metric = build()
    x, y = batch(metric, 20, 0)
    metric.update(x, y)
    metric.reset()
    assert torch.equal(metric.table, build().table)
    metric.update(x, y)
    before = metric.clone()
    for bad in ((x, y[:3]), (x.tolist(), y), (x.to("meta"), y)):
        with pytest.raises((TypeError, ValueError)):
            metric.update(*bad)
    if metric.nan_strategy == "error":
        with pytest.raises(ValueError, match="finite"):
            metric.update(x, torch.full_like(y, torch.inf))
    metric.update(x, y)
    before.update(x, y)
    assert torch.equal(metric.table, before.table)
    assert torch.equal(metric.counters, before.counters)


def test_an_update_that_fails_at_the_last_moment_is_undone(build, monkeypatch):
    metric = build()
    x, y = batch(metric, 20, 0)
    metric.update(x, y)
    expected = metric.clone()

    def broken(*_):
        metric.table  # noqa: B018
        raise RuntimeError("broken")

    monkeypatch.setattr(metric, "_count", broken)
    with pytest.raises(RuntimeError, match="broken"):
        metric.update(x, y)
    monkeypatch.undo()
    for m in (metric, expected):
        m.update(x, y)
    assert torch.equal(metric.table, expected.table)


@pytest.mark.parametrize("name", ["known", "unknown"])
def test_more_samples_wait_than_are_counted_at_once(name):
    metric, expected = BUILT[name](), BUILT[name]()
    batches = [[v.clamp(-3, 3) for v in batch(metric, 1000, seed)] for seed in range(4)]
    for x, y in batches:
        metric.update(x, y)
    assert waits(metric)
    expected.update(*(torch.cat(v) for v in zip(*batches, strict=True)))
    assert torch.equal(metric.table, expected.table)


def test_batches_may_be_written_over():
    metric = BinnedMutualInformation(8)
    x, y = batch(metric, 20, 0)
    expected = metric.clone()
    expected.update(x.clone(), y.clone())
    metric.update(x, y)
    assert waits(metric)
    x.zero_()
    y.zero_()
    assert torch.equal(metric.table, expected.table)


def test_what_waits_takes_less_memory_than_the_table():
    metric = BinnedMutualInformation(8)
    for seed in range(200):
        metric.update(*batch(metric, 100, seed, torch.float64))
        if waits(metric):
            waiting = metric._waiting
            assert waiting.number <= joint_tables.MOST_WAITING
            held = sum(v.numel() * v.element_size() for v in waiting.samples)
            assert held <= waiting.table.numel() * waiting.table.element_size()
    assert int(metric.seen) == 20000
    assert int(metric.table[:, 514:].sum()) == 20000


def test_batches_of_one_do_not_wait_for_ever():
    metric = BinnedMutualInformation(8)
    for x in torch.linspace(0, 1, 300):
        metric.update(x.view(1), x.view(1))
        assert waits(metric) == (int(metric.seen) % joint_tables.MOST_BATCHES > 0)
        assert not waits(metric) or len(metric._waiting.samples) < joint_tables.MOST_BATCHES
    assert int(metric.table[:, 514:].sum()) == 300


def test_a_reset_counts_nothing(build, monkeypatch):
    metric = build()
    metric.update(*batch(metric, 20, 0))
    monkeypatch.setattr(type(metric), "_counted", None)
    metric.reset()
    monkeypatch.undo()
    assert torch.equal(metric.table, build().table)


def test_an_update_while_the_table_is_read_is_kept(monkeypatch):
    metric = BinnedMutualInformation(8)
    counted = type(metric)._counted
    x, y = batch(metric, 20, 0)

    def interrupted(self, waiting):
        monkeypatch.undo()
        # As another thread would.
        self.update(x, y)
        return counted(self, waiting)

    metric.update(x, y)
    monkeypatch.setattr(type(metric), "_counted", interrupted)
    assert int(metric.table[:, 514:].sum()) == 20
    assert int(metric.table[:, 514:].sum()) == 40


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.bool])
def test_bytes_wait_too(build, dtype):
    metric, expected = build(), build()
    generator = torch.Generator().manual_seed(0)
    for n in (3000, 20, 2500, 4000):
        shape = (n, metric.num_outputs) if metric.num_outputs > 1 else (n,)
        x, y = torch.randint(0, 2, (2, *shape), generator=generator).to(dtype)
        metric.update(x, y)
        expected.update(x.double(), y.double())
        expected.table  # noqa: B018
    assert torch.equal(metric.table, expected.table)
    assert torch.equal(metric.seen, expected.seen)


def test_metrics_of_a_collection_share_what_waits():
    together = MetricCollection(
        {"nats": BinnedMutualInformation(), "bits": BinnedMutualInformation(unit="bits")}
    )
    alone = BinnedMutualInformation(unit="bits")
    for seed in range(4):
        x, y = batch(alone, 20, seed)
        together.update(x, y)
        alone.update(x, y)
        if seed == 2:
            together.compute()
    assert together.compute()["bits"] == alone.compute()
    assert torch.equal(together["nats"].table, alone.table)

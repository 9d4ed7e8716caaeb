"""`mi-metrics estimate` by several processes: the same values, to the bit."""

import multiprocessing
import sys

import numpy as np
import pytest

from mi_metrics.commands import workers
from mi_metrics.commands.ranks import Ranks
from mi_metrics.commands.table import ColumnError, TextFoundError
from tests import processes
from tests.commands.test_estimate import found_in, lines

pytest.importorskip("tqdm")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
arrow_csv = pytest.importorskip("pyarrow.csv")

N = 6000


def table():
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, N))
    kind = rng.choice(["a", "b", "c"], N)
    return pa.table(
        {
            "x": np.where(rng.random(N) < 0.1, np.nan, x),
            "kind": kind,
            "y": 0.6 * x + 0.8 * noise + (kind == "c"),
            "tail": np.exp(2 * x),
        }
    )


def write(path):
    """Write the table in several parts, as a file of any kind or a folder."""
    if path.suffix == ".csv":
        arrow_csv.write_csv(table(), path)
    elif path.suffix == ".parquet":
        parquet.write_table(table(), path, row_group_size=700)
    else:
        path.mkdir()
        for i in range(3):
            parquet.write_table(table().slice(i * 2000, 2000), path / f"{i}.parquet")
    return path


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "folder"])
def test_ranks_that_share_the_rows(name, tmp_path):
    path = write(tmp_path / name)
    # Fewer rows than there are, so that which ones are kept shows as well.
    options = [str(path), "--y", "y", "--max-samples", "1000", "--permutations", "3", "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    module = ["-m", "mi_metrics", "estimate", *options]
    one = processes.run([sys.executable, *module, str(tmp_path / "one.csv")])
    three = processes.run([*torchrun, *module, str(tmp_path / "three.csv")])
    assert one.returncode == three.returncode == 0, three.stderr
    assert three.stdout == one.stdout
    assert (tmp_path / "three.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert {int(line["n"]) for line in lines(tmp_path / "one.csv")} > {1000, N}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("content", ["a,b\n1,2\n3,x\n4,1\n2,2\n5,6\n", "a,b\n1,2\n3,4,5\n"])
def test_ranks_end_together_where_the_file_is_wrong(content, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    module = ["-m", "mi_metrics", "estimate", str(tmp_path / "t.csv"), "--x", "a", "--y", "b"]
    found = processes.run([*torchrun, *module])
    assert found.returncode != 0
    # One of them says so.
    assert found.stderr.count("mi-metrics: error: ") == 1
    assert "exitcode  : 1" in found.stderr


@pytest.mark.slow
def test_jobs_that_share_the_pairs(tmp_path):
    path = write(tmp_path / "t.parquet")
    others = multiprocessing.active_children()
    options = ["--matrix", "--permutations", "3", "--max-samples", "1000"]
    one, two = (found_in(path, *options, "--jobs", jobs) for jobs in (1, 2))
    # NaN of two processes are two numbers, and written alike.
    assert repr(one) == repr(two)
    assert set(multiprocessing.active_children()) <= set(others)


def divide(number):
    return 12 / number


@pytest.mark.slow
def test_an_error_of_a_worker_is_raised_as_it_was():
    with pytest.raises(ZeroDivisionError):
        list(workers.shared(divide, [1, 0], 2))
    assert sorted(workers.shared(divide, [1, 2, 3], 2)) == [4, 6, 12]


@pytest.mark.parametrize(
    "error", [TextFoundError("a", "b"), ColumnError("t.csv", "a", "holds too much")]
)
def test_errors_reach_other_processes(error):
    import pickle

    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, str(copy)) == (type(error), error.args, str(error))


def test_alone_there_is_nobody_to_wait_for(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = Ranks.started()
    assert (alone.rank, alone.size) == (0, 1)
    assert (alone.all_of(3), alone.to(0, 3), alone.together(lambda: 3)) == ([3], [3], 3)
    with pytest.raises(ValueError, match="wrong"):
        alone.together(lambda: int("wrong"))

"""`mi-metrics study`, on small studies; the accuracy that the documentation promises at the end."""

import csv
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from mi_metrics import cli
from mi_metrics.commands import study, workers
from mi_metrics.commands.study_table import Row, held, read
from mi_metrics.distributions import DISTRIBUTIONS
from tests.cautions import ignore_cautions
from tests.processes import LIMIT, interruptible

pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")

HEADER = "estimator,r,n,truth,mean,sd,error,milliseconds,draws,seed"
SMALL = ["--draws", "3", "--sizes", "60", "40", "--points", "3", "--workers", "1"]
FIGURES = ("estimates", "parameter", "relative_error", "duration", "joint")


def run(out, *options, small=SMALL):
    assert cli.main(["study", "--out", str(out), *small, *options]) == 0
    return out / "study_gaussian.csv"


def values(path):
    """Return the rows of a table without their durations."""
    with path.open(newline="") as file:
        return [[v for k, v in row.items() if k != "milliseconds"] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study that nothing interrupted."""
    return run(tmp_path_factory.mktemp("whole"), "--no-figures")


@pytest.fixture
def computed(monkeypatch):
    """The points that are computed from here on."""
    points = []
    evaluate = study.evaluate

    def spy(point):
        points.append(point)
        return evaluate(point)

    monkeypatch.setattr(study, "evaluate", spy)
    return points


class TestTable:
    def test_header_and_rows(self, whole):
        lines = whole.read_text().splitlines()
        assert lines[0] == HEADER
        found = [(line.split(",")[0], line.split(",")[1], line.split(",")[2]) for line in lines[1:]]
        expected = [
            (name, r, n)
            for name in ("bins", "kde", "knn")
            for r in ("0", "0.92678619", "0.99")
            for n in ("40", "60")
        ]
        assert found == expected
        assert {path.name for path in whole.parent.iterdir()} - {".study_gaussian.csv.lock"} == {
            "study_gaussian.csv"
        }

    @ignore_cautions
    def test_rows_are_what_they_say(self, whole):
        for row in read(whole, "gaussian"):
            x, y = study.draw("gaussian", row.truth, row.n, 3, 0)
            estimates = study.ESTIMATORS[row.estimator](x, y)
            assert (row.draws, row.seed) == (3, 0)
            assert row.mean == pytest.approx(float(estimates.mean()), abs=1e-6)
            assert row.sd == pytest.approx(float(estimates.std()), abs=1e-6)
            assert row.error == pytest.approx(row.mean - row.truth, abs=1e-7)
            assert DISTRIBUTIONS["gaussian"].information(row.parameter) == pytest.approx(
                row.truth, abs=1e-6
            )
            assert row.milliseconds >= 0

    def test_another_distribution_has_its_own_parameter_and_file(self, tmp_path):
        run(tmp_path, "--distribution", "gamma-exponential", "--no-figures", "--estimators", "knn")
        lines = (tmp_path / "study_gamma-exponential.csv").read_text().splitlines()
        assert lines[0] == HEADER.replace(",r,", ",theta,")
        assert len(lines) == 1 + 6
        assert lines[1].startswith("knn,49.8")

    def test_all_estimators_see_the_same_samples_and_seeds_differ(self, whole, tmp_path):
        x, _ = study.draw("gaussian", 1.0, 5, 2, 0)
        for other in (("gaussian", 1.1, 5, 2, 0), ("gaussian", 1.0, 5, 2, 1)):
            assert not torch.equal(study.draw(*other)[0], x)
        other = run(tmp_path, "--seed", "1", "--no-figures")
        assert all(a[4] != b[4] for a, b in zip(values(other), values(whole), strict=True))

    def test_the_summary(self):
        rows = [
            Row("bins", 0.0, n, 0.0, e, 0.1, e, ms, 2, 0)
            for n, e, ms in ((10, 0.1, 1.0), (20, -0.3, 2.0), (20, 0.2, 4.0))
        ]
        header, line = study.summary(rows).splitlines()
        assert header.split("  ")[-1] == "ms at N = 20"
        assert line.split() == ["bins", "0.2000", "0.3000", "3.000"]

    def test_the_number_of_threads_is_left_as_it_was(self, tmp_path):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            run(tmp_path, "--no-figures", "--estimators", "bins")
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)


class TestContinuation:
    @pytest.mark.parametrize("end", [0, 20, len(HEADER), len(HEADER) + 1, 200, -3, -1])
    def test_a_table_cut_off_anywhere_is_completed(self, end, whole, tmp_path):
        path = tmp_path / whole.name
        path.write_bytes(whole.read_bytes()[:end])
        run(tmp_path, "--no-figures")
        assert values(path) == values(whole)

    def test_only_what_is_missing_is_computed(self, whole, tmp_path, computed):
        path = tmp_path / whole.name
        lines = whole.read_text().splitlines(keepends=True)
        # In the order of completion, a line twice, the last one without its end.
        path.write_text("".join([lines[0], *lines[:4:-1], lines[7]]) + lines[1][:-2])
        run(tmp_path, "--no-figures")
        assert len(computed) == 4
        assert {point.place for point in computed} == {
            row.place for row in read(whole, "gaussian")[:4]
        }
        assert values(path) == values(whole)

    def test_a_finished_study_only_draws(self, whole, tmp_path, computed):
        path = tmp_path / whole.name
        path.write_bytes(whole.read_bytes())
        run(tmp_path)
        assert computed == []
        assert path.read_bytes() == whole.read_bytes()
        assert (tmp_path / "study_gaussian_estimates.png").exists()

    def test_estimators_and_sizes_can_be_added(self, whole, tmp_path, computed, capsys):
        one = [*SMALL[:2], "--sizes", "40", *SMALL[5:], "--no-figures"]
        run(tmp_path, "--estimators", "bins", small=one)
        run(tmp_path, "--estimators", "knn", small=one)
        assert "bins" not in capsys.readouterr().out.split("written")[1]
        path = run(tmp_path, "--no-figures")
        assert values(path) == values(whole)
        assert len(computed) == len(values(whole))

    def test_ctrl_c_keeps_what_is_done(self, whole, tmp_path, monkeypatch, capsys):
        evaluate = study.evaluate

        def interrupted(point):
            if point.estimator == "knn" and point.n == 60:
                raise KeyboardInterrupt
            return evaluate(point)

        with monkeypatch.context() as patch:
            patch.setattr(study, "evaluate", interrupted)
            with pytest.raises(SystemExit, match="130"):
                run(tmp_path)
        path = tmp_path / whole.name
        assert capsys.readouterr().err == (
            f"\nmi-metrics study: interrupted. {path} keeps what is done; the same command "
            f"continues.\n"
        )
        assert len(values(path)) == 5
        run(tmp_path, "--no-figures")
        assert values(path) == values(whole)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                ["--draws", "4"],
                "has --draws 3 --seed 0, but this study has --draws 4 --seed 0. Repeat the options",
            ),
            (
                ["--seed", "7"],
                "has --draws 3 --seed 0, but this study has --draws 3 --seed 7. Repeat the options",
            ),
            (
                ["--points", "4"],
                "has a row for bins at r = 0.92678619, N = 40, but this study has no such point.",
            ),
            (
                ["--sizes", "60", "80"],
                "has a row for bins at r = 0, N = 40, but this study has no such point.",
            ),
        ],
    )
    def test_a_table_of_another_study(self, options, message, whole, tmp_path, capsys):
        path = tmp_path / whole.name
        path.write_bytes(whole.read_bytes())
        with pytest.raises(SystemExit, match="1"):
            run(tmp_path, *options)
        error = capsys.readouterr().err
        assert error.startswith(f"mi-metrics study: error: {path} {message}")
        assert "another folder with --out" in error
        assert error.count("\n") == 1
        assert path.read_bytes() == whole.read_bytes()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("name,age\nme,3\n", "to start with estimator,r,n,.*, but got 'name,age'"),
            ("no table", "but got 'no table'"),
            (HEADER + "\nbins,0,40\n", "in line 2 of .*, but got 'bins,0,40'. Delete that line"),
            (HEADER + "\nbins,0,forty,0,1,1,1,1,3,0\n", "in line 2 of .*, but got 'bins,0,forty"),
            (HEADER + "\n\xff\n", "in line 2 of"),
        ],
    )
    def test_a_file_that_is_no_table(self, content, message, tmp_path, capsys):
        path = tmp_path / "study_gaussian.csv"
        path.write_text(content, encoding="latin-1")
        before = path.read_bytes()
        with pytest.raises(SystemExit, match="1"):
            run(tmp_path)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(message, error)
        assert path.read_bytes() == before

    def test_a_table_that_another_study_is_writing(self, whole, tmp_path, capsys):
        path = tmp_path / whole.name
        path.write_bytes(whole.read_bytes()[:300])
        before = path.read_bytes()
        with held(path), pytest.raises(SystemExit, match="1"):
            run(tmp_path)
        assert capsys.readouterr().err == (
            f"mi-metrics study: error: Expected {path} for this study alone, but another one is "
            "writing it. Wait for its end, or pass another folder with --out.\n"
        )
        assert path.read_bytes() == before
        run(tmp_path, "--no-figures")
        assert values(path) == values(whole)

    def test_a_folder_in_place_of_a_figure(self, whole, tmp_path, capsys):
        (tmp_path / whole.name).write_bytes(whole.read_bytes())
        figure = tmp_path / "study_gaussian_estimates.png"
        figure.mkdir()
        with pytest.raises(SystemExit, match="1"):
            run(tmp_path)
        assert capsys.readouterr().err == (
            f"mi-metrics study: error: Can't write to {figure}: Is a directory. Pass another "
            f"folder with --out.\n"
        )

    def test_an_error_of_the_computation_is_not_one_of_the_folder(self, tmp_path, monkeypatch):
        def fails(point):
            raise OSError("a library is missing")

        monkeypatch.setattr(study, "evaluate", fails)
        with pytest.raises(OSError, match="a library is missing"):
            run(tmp_path)

    @pytest.mark.parametrize("name", ["file", "file/below"])
    def test_a_folder_that_can_not_be_written_to(self, name, tmp_path, capsys):
        (tmp_path / "file").touch()
        with pytest.raises(SystemExit, match="1"):
            run(tmp_path / name)
        error = capsys.readouterr().err
        assert error.startswith(f"mi-metrics study: error: Can't write to {tmp_path / name}: ")
        assert error.count("\n") == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--draws", "1"], "argument --draws: expected at least 2, but got 1"),
            (["--draws", "many"], "argument --draws: invalid integer value: 'many'"),
            (["--sizes", "3"], "argument --sizes: expected at least 4, but got 3"),
            (["--points", "1"], "argument --points: expected at least 2, but got 1"),
            (["--seed", "-1"], "argument --seed: expected at least 0, but got -1"),
            (["--workers", "0"], "argument --workers: expected at least 1, but got 0"),
            (["--estimators", "mine"], "argument --estimators: invalid choice: 'mine'"),
            (["--distribution", "cauchy"], "argument --distribution: invalid choice: 'cauchy'"),
            (["--sizes", "1000000000"], "at most 134217728 pairs, but got 3 * 1000000000"),
        ],
    )
    def test_options(self, options, message, tmp_path, capsys):
        with pytest.raises(SystemExit, match="2"):
            run(tmp_path / "new", *options)
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("missing", ["tqdm", "matplotlib"])
    def test_a_missing_extra_is_one_line(self, missing, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, missing, None)
        assert cli.main(["study", "--out", str(tmp_path), *SMALL]) == 1
        what = {"tqdm": "The commands", "matplotlib": "Figures"}[missing]
        message = (
            f'mi-metrics: {what} need {missing}. Install it with: pip install "mi-metrics[cli]"\n'
        )
        assert capsys.readouterr().err == message
        assert list(tmp_path.iterdir()) == []

    def test_a_table_alone_needs_no_matplotlib(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        run(tmp_path, "--no-figures", "--estimators", "bins")


def test_the_help_fits_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["study", "--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) < 80
    assert all(f"\n  {name} " in text for name in DISTRIBUTIONS)


def edges_of_band(ax, color):
    """Return the points of the band of one colour."""
    from matplotlib.colors import same_color

    (band,) = (b for b in ax.collections if same_color(b.get_facecolor()[0, :3], color))
    return {tuple(point) for point in band.get_paths()[0].vertices.tolist()}


class TestFigures:
    @pytest.mark.parametrize("distribution", ["gaussian", "gamma-exponential"])
    def test_every_figure_is_made_and_named(self, distribution, tmp_path, capsys):
        run(tmp_path, "--distribution", distribution)
        written = capsys.readouterr().out.partition("written:\n")[2].split()
        expected = [
            f"study_{distribution}.csv",
            *(f"study_{distribution}_{name}.png" for name in FIGURES),
        ]
        assert written == [str(tmp_path / name) for name in expected]
        assert all((tmp_path / name).stat().st_size > 500 for name in expected)

    def test_one_estimator_and_one_size(self, tmp_path):
        run(tmp_path, "--estimators", "kde", "--sizes", "50")

    def test_the_former_name_of_an_estimator_is_its_present_one(self):
        assert study.grid(estimators=["quantile-bins"]) == study.grid(estimators=["bins"])

    def test_what_is_drawn_is_the_table(self, whole):
        from mi_metrics.commands.study_figures import (
            plot_duration,
            plot_estimates,
            plot_over_parameter,
            plot_relative_error,
        )

        rows = read(whole, "gaussian")
        panels = [ax for ax in plot_estimates(rows, "gaussian").axes if ax.collections]
        for ax, name in zip(panels, study.ESTIMATORS, strict=True):
            drawn = {tuple(point) for point in ax.collections[0].get_offsets().tolist()}
            assert drawn == {(row.truth, row.mean) for row in rows if row.estimator == name}
        kde = [row for row in rows if (row.estimator, row.n) == ("kde", 60)]
        figure = plot_over_parameter(rows, "gaussian")
        lines = {line.get_label(): line for line in figure.axes[0].lines}
        assert list(lines["kernel densities"].get_ydata()) == [row.mean for row in kde]
        assert list(lines["truth"].get_ydata()) == [row.truth for row in kde]
        for ax, middle in zip(figure.axes, ("mean", "error"), strict=True):
            assert edges_of_band(ax, lines["kernel densities"].get_color()) == {
                (row.parameter, getattr(row, middle) + sign * row.sd)
                for row in kde
                for sign in (-1, 1)
            }
        lines = {
            line.get_label(): line for line in plot_relative_error(rows, "gaussian").axes[0].lines
        }
        # Without r = 0, where nothing is a fraction of the truth.
        assert list(lines["kernel densities"].get_xdata()) == [row.truth for row in kde[1:]]
        assert list(lines["kernel densities"].get_ydata()) == [
            100 * row.error / row.truth for row in kde[1:]
        ]
        figure = plot_relative_error(rows, "gaussian")
        band = edges_of_band(figure.axes[0], lines["kernel densities"].get_color())
        found = sorted(high for _, high in band)
        expected = [
            100 * (row.error + sign * row.sd / row.draws**0.5) / row.truth
            for row in kde[1:]
            for sign in (-1, 1)
        ]
        assert found == pytest.approx(sorted(expected))
        (ax,) = plot_duration(rows, "gaussian").axes
        assert (ax.get_xscale(), ax.get_yscale(), len(ax.lines)) == ("log", "log", 3)
        assert list(ax.lines[1].get_xdata()) == [40, 60]
        assert ax.lines[1].get_ydata()[1] == pytest.approx(sum(row.milliseconds for row in kde) / 3)

    def test_joint_tables_are_the_estimators_own(self):
        from mi_metrics.commands.study_figures import plot_joints
        from mi_metrics.functional import binned_joint

        x, y = (v[0] for v in study.draw("gaussian", 1.959, 300, 1, 0))
        figure = plot_joints(x, y, "gaussian", 1.959)
        uniform, quantile, smooth, scatter = figure.axes[:4]
        for ax, binning in ((uniform, "uniform"), (quantile, "quantile")):
            shown = torch.from_numpy(ax.collections[0].get_array().filled(0)).T
            assert torch.equal(shown, binned_joint(x, y, "auto", binning=binning))
            edges = ax.collections[0].get_coordinates()[0, :, 0]
            counts = torch.histogram(x, torch.from_numpy(edges)).hist
            torch.testing.assert_close(counts / 300, shown.sum(1), atol=1.1 / 300, rtol=0)
        assert smooth.collections[0].get_array().size == 256**2
        assert torch.equal(
            torch.from_numpy(scatter.collections[0].get_offsets().data), torch.stack([x, y], 1)
        )
        assert all(ax.get_xlim() == uniform.get_xlim() for ax in (quantile, smooth, scatter))


COMMAND = [sys.executable, "-m", "mi_metrics.cli", "study", *SMALL[:-1], "2", "--no-figures"]


@pytest.mark.slow
@pytest.mark.distributed
class TestProcesses:
    def test_two_workers_compute_the_same(self, whole, tmp_path):
        result = subprocess.run([*COMMAND, "--out", str(tmp_path)], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "")
        assert values(tmp_path / whole.name) == values(whole)
        assert result.stdout.startswith(
            "gaussian: standard normal variables of correlation r\n3 strengths"
        )

    def test_a_worker_that_is_killed_is_one_line_and_the_study_continues(
        self, whole, tmp_path, monkeypatch, capsys
    ):
        append = study.append
        others = multiprocessing.active_children()  # of other tests

        def own():
            return [
                process for process in multiprocessing.active_children() if process not in others
            ]

        def kill(path, row):
            append(path, row)
            own()[0].kill()

        with monkeypatch.context() as patch:
            patch.setattr(study, "append", kill)
            with pytest.raises(SystemExit, match="1"):
                run(tmp_path, "--workers", "2")
        path = tmp_path / whole.name
        assert capsys.readouterr().err == (
            "mi-metrics study: error: Expected 2 processes to share the work, but one of them "
            "could not be started or was ended. Where memory is short use fewer, for example "
            f"--workers 1. {path} keeps what is done; the same command continues.\n"
        )
        assert len(values(path)) >= 1
        assert own() == []
        run(tmp_path, "--no-figures")
        assert values(path) == values(whole)

    def test_a_worker_that_can_t_be_started_leaves_none_behind(self, monkeypatch):
        start, others = workers._start, multiprocessing.active_children()
        started = []

        def second_fails(*args):
            if started:
                raise BlockingIOError("no more processes")
            started.append(start(*args))
            return started[0]

        monkeypatch.setattr(workers, "_start", second_fails)
        with pytest.raises(study.WorkerError, match="one of them could not be started"):
            list(study.evaluate_all(study.grid("gaussian", ("bins",), (40,), 3, 3), 2))
        assert started
        assert set(multiprocessing.active_children()) <= set(others)

    @pytest.mark.skipif(os.name != "posix", reason="signals")
    @pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
    def test_an_interrupted_study_leaves_no_process_and_continues(self, stop, whole, tmp_path):
        path = tmp_path / whole.name
        # Long enough to be interrupted, in a process group of its own, as a terminal gives it one.
        endless = [*COMMAND, "--out", str(tmp_path), "--points", "2001"]
        process = subprocess.Popen(
            interruptible(endless), stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        deadline = time.monotonic() + LIMIT
        while not path.exists() or path.read_text().count("\n") < 10:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = subprocess.run([*COMMAND, "--out", str(tmp_path)], capture_output=True, text=True)
        assert second.returncode == 1
        assert "but another one is writing it" in second.stderr
        if stop == signal.SIGINT:
            os.killpg(process.pid, stop)
        else:
            process.kill()
        # The workers hold its standard error: that ends when the last of them does.
        _, error = process.communicate(timeout=LIMIT)
        if stop == signal.SIGINT:
            assert process.returncode == 130
            assert (
                error
                == f"\nmi-metrics study: interrupted. {path} keeps what is done; the same command "
                f"continues.\n"
            )
        done = path.read_text().count("\n") - 1
        rows = study.run(path, study.grid("gaussian", ("bins",), (40, 60), 2001, 3, 0))
        assert done >= 9
        assert len(rows) == 4002
        again = study.run(
            tmp_path / "again.csv", study.grid("gaussian", ("bins",), (40, 60), 2001, 3, 0)
        )
        assert [row[:7] for row in rows] == [row[:7] for row in again]


def test_the_accuracy_of_bins():
    """Five strengths of dependence, all sizes, 64 draws; the other estimators have such a test of
    their own.
    """
    errors = [
        abs(study.evaluate(study.Point("bins", "gaussian", truth, n)).error)
        for truth in study.truths()[::6]
        for n in study.SIZES
    ]
    assert len(errors) == 35
    assert sum(errors) / 35 <= 0.042

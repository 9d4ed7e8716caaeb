import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from mi_metrics import cli
from tests import processes


def run(*args, without=()):
    """Run the command line in a fresh interpreter in which some packages can't be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({list(without)!r})); "
        f"from mi_metrics.cli import main; sys.exit(main({list(args)!r}))"
    )
    return processes.run([sys.executable, "-c", code])


@pytest.mark.parametrize("args", [["--help"], ["-h"]])
def test_help_names_every_command(args, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(args)
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)
    assert "mi-metrics fit --config validation_metric" in text


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == version("mi-metrics")


def test_the_package_runs_as_a_module():
    result = processes.run([sys.executable, "-m", "mi_metrics", "--version"])
    assert (result.returncode, result.stdout.strip()) == (0, version("mi-metrics"))


def test_an_unknown_command_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["fitt"])
    message = capsys.readouterr().err
    assert all(name in message for name in cli.COMMANDS)


def test_no_command_is_refused_with_the_commands(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    message = capsys.readouterr().err
    assert f"name a command: {', '.join(cli.COMMANDS)}" in message


@pytest.mark.slow
def test_classes_of_the_working_directory_can_be_trained(tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    pytest.importorskip("jsonargparse")
    (tmp_path / "of_mine.py").write_text(
        "from mi_metrics.examples import DigitsAutoencoder\n"
        "class Mine(DigitsAutoencoder):\n    pass\n"
    )
    code = (
        "import sys; sys.path = [p for p in sys.path if p]; from mi_metrics.cli import main; "
        "main(['fit', '--config', 'validation_metric', '--model', 'of_mine.Mine', "
        "'--model.code_dim', '3', '--print_config'])"
    )
    result = processes.run([sys.executable, "-c", code], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "of_mine.Mine" in result.stdout
    assert "code_dim: 3" in result.stdout


def test_the_metric_of_codes_has_their_dimension():
    pytest.importorskip("lightning")
    from mi_metrics.examples import DigitsAutoencoder
    from mi_metrics.lightning.cli import configs_folder

    assert DigitsAutoencoder(code_dim=3).val_code_metrics["code_mi"].x_dim == 3
    # The configuration leaves it to the model, so that --model.code_dim is one option.
    assert "code_metrics: null" in (configs_folder() / "validation_metric.yaml").read_text()


def test_a_command_gets_its_options_as_they_are(monkeypatch):
    received = []
    monkeypatch.setitem(cli.COMMANDS, "probe", (__name__, "a command of this test"))
    monkeypatch.setitem(globals(), "main", received.extend)
    assert cli.main(["probe", "--config", "a", "-x", "--help"]) == 0
    assert received == ["probe", "--config", "a", "-x", "--help"]


@pytest.mark.parametrize("missing", ["lightning", "jsonargparse"])
def test_a_missing_extra_is_one_line_that_says_how_to_install_it(missing):
    result = run("fit", "--config", "validation_metric", without=[missing])
    assert result.returncode == 1
    assert result.stderr.startswith("mi-metrics: ")
    assert result.stderr.count("\n") == 1
    assert 'pip install "mi-metrics[lightning]"' in result.stderr


def test_other_import_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setitem(
        cli.COMMANDS, "probe", ("mi_metrics.no_such_module", "a command of this test")
    )
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        cli.main(["probe"])


def test_the_command_line_is_also_a_module():
    result = processes.run([sys.executable, "-m", "mi_metrics.cli", "--version"])
    assert result.stdout.strip() == version("mi-metrics")


class TestConfigs:
    """Where ``--config NAME`` is looked up."""

    @pytest.fixture(autouse=True)
    def _needs_lightning(self):
        pytest.importorskip("lightning")
        pytest.importorskip("jsonargparse")

    def test_a_checkout_uses_its_configs(self):
        from mi_metrics.lightning.cli import configs_folder, resolve_config

        repository = Path(cli.__file__).parent.parent
        if not (repository / "pyproject.toml").is_file():
            pytest.skip("not a source checkout")
        assert configs_folder() == repository / "configs"
        assert resolve_config("validation_metric") == str(
            repository / "configs" / "validation_metric.yaml"
        )
        assert resolve_config("trainer/ddp_cpu") == str(
            repository / "configs" / "trainer" / "ddp_cpu.yaml"
        )

    def test_an_installed_package_uses_its_own(self, tmp_path):
        from mi_metrics.lightning.cli import configs_folder

        package = tmp_path / "site-packages" / "mi_metrics"
        (package / "configs").mkdir(parents=True)
        # The folder of that name belongs to another package.
        (tmp_path / "site-packages" / "configs").mkdir()
        assert configs_folder(package) == package / "configs"

    def test_files_and_text_are_left_as_they_are(self, tmp_path, monkeypatch):
        from mi_metrics.lightning.cli import resolve_config

        monkeypatch.chdir(tmp_path)
        for name in ("mine.yaml", "mine"):
            Path(name).write_text("seed_everything: 1")
            assert resolve_config(name) == name
        # The second longer than the name of a file may be.
        for text in ("{seed_everything: 1}", f"{{model: {'m' * 5000}}}"):
            assert resolve_config(text) == text

    def test_a_bundled_name_comes_before_a_file_of_that_name(self, tmp_path, monkeypatch):
        from mi_metrics.lightning.cli import resolve_config

        monkeypatch.chdir(tmp_path)
        Path("validation_metric").write_text("seed_everything: 1")
        assert resolve_config("validation_metric").endswith("validation_metric.yaml")
        assert resolve_config("./validation_metric") == "./validation_metric"

    @pytest.mark.parametrize(
        "name", ["no_such_name", "validation_metric.yaml", "configs/validation_metric.yaml"]
    )
    def test_an_unknown_name_is_refused_with_the_bundled_ones(
        self, name, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit, match="2"):
            cli.main(["fit", "--config", name])
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert f"got '{name}'" in message
        bundled = message.partition("Bundled: ")[2]
        assert {"trainer/ddp_cpu", "validation_metric"} <= set(bundled.rstrip(".\n").split(", "))

    def test_help_of_a_command(self, capsys):
        with pytest.raises(SystemExit, match="0"):
            cli.main(["fit", "--help"])
        text = capsys.readouterr().out
        assert "bundled configuration" in text
        assert all(name in text for name in ("validation_metric", "trainer/ddp_cpu"))
        assert "--num_threads" in text

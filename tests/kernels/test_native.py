"""The compiled library: built, found, refused, switched off."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from mi_metrics.kernels import build, native, switch

FEW = ("build.py", "native.cpp", "line.cpp")
needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="there is no C++ compiler")


def status(**environment):
    """Return what a fresh interpreter says about the compiled functions."""
    code = "from mi_metrics.kernels import native; print(native.status())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MI_METRICS_KERNELS": "", **environment},
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    target = tmp_path_factory.mktemp("built") / build.NAME
    assert build.build(target) is None
    return target


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Two of the sources in a folder of their own: to compile all takes most of a minute."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    for path in (*build.FOLDER.glob("*.h"), *map(build.FOLDER.joinpath, FEW)):
        shutil.copy(path, folder)
    monkeypatch.setattr(build, "FOLDER", folder)
    return folder


@needs_compiler
def test_a_library_that_was_just_built_serves(library):
    assert status(MI_METRICS_LIBRARY=str(library)) == (
        f"The compiled functions serve, from {library}."
    )


@needs_compiler
def test_the_environment_switches_it_off(library):
    said = status(MI_METRICS_LIBRARY=str(library), MI_METRICS_KERNELS="0")
    assert "switched off (MI_METRICS_KERNELS=0" in said


@needs_compiler
def test_the_same_sources_give_the_same_bytes(sources, tmp_path):
    first, second = (tmp_path / name / build.NAME for name in ("first", "second"))
    for target in (first, second):
        target.parent.mkdir()
        assert build.build(target) is None
    assert first.read_bytes() == second.read_bytes()


def test_a_library_that_is_not_there_is_said_to_be(tmp_path):
    assert "without a C++ compiler" in status(MI_METRICS_LIBRARY=str(tmp_path / "absent.so"))


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF\x02\x01\x01" + bytes(57)])
def test_a_damaged_library_is_as_if_absent(tmp_path, content):
    path = tmp_path / build.NAME
    path.write_bytes(content)
    assert f"{path} does not load" in status(MI_METRICS_LIBRARY=str(path))


@needs_compiler
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "does not load"),
        ("long long mi_metrics_abi() { return -1; }", "does not load"),
        (
            "long long mi_metrics_abi() { return -1; } const char* mi_metrics_fingerprint() "
            '{ return "x"; }',
            f"has the interface -1, not {native.ABI}",
        ),
        (
            f"long long mi_metrics_abi() {{ return {native.ABI}; }} "
            'const char* mi_metrics_fingerprint() { return "x"; }',
            "was built of other sources",
        ),
    ],
)
def test_another_library_is_as_if_absent(tmp_path, source, said):
    (tmp_path / "other.cpp").write_text(f'extern "C" {{ {source} }}\n')
    path = tmp_path / build.NAME
    call = [*build.compiler(), "-shared", "-fPIC", "other.cpp", "-o", str(path)]
    subprocess.run(call, cwd=tmp_path, check=True)
    assert said in status(MI_METRICS_LIBRARY=str(path))


def test_without_a_compiler_the_build_says_so_and_leaves_no_old_library(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "")
    target = tmp_path / build.NAME
    target.write_bytes(b"old")
    assert "no C++ compiler" in build.build(target)
    assert not target.exists()
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_the_build_says_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert "file" in build.build(tmp_path / "file" / build.NAME)


@needs_compiler
def test_what_does_not_compile_is_told_in_the_compilers_words(sources, tmp_path):
    (sources / "native.cpp").write_text("int broken( {")
    assert "native.cpp" in build.build(tmp_path / build.NAME)


def test_disabled_lets_the_references_serve():
    before = native.serves()
    with switch.disabled():
        assert not native.serves()
        assert "switched off" in native.status()
        with switch.disabled():
            pass
        assert not native.serves()
    assert native.serves() == before


def test_only_the_memory_that_was_promised_is_handed_over():
    values = np.arange(6.0)
    start = native.address(values, np.float64, 6)
    assert start == values.ctypes.data
    for array in (values.astype(np.float32), values[:5], values[::-1], values[::2]):
        with pytest.raises(ValueError, match="Expected 6 contiguous values of float64"):
            native.address(array, np.float64, 6)


def test_tensors_without_memory_have_no_array():
    values = torch.arange(3.0, requires_grad=True)
    assert native.array_of(values).tolist() == [0, 1, 2]
    assert native.array_of(torch.empty(3, device="meta")) is None
    assert native.array_of(torch.complex(values, values).conj().imag) is None
    assert native.array_of(values.detach().bfloat16()) is None
    seen = []

    def look(v):
        seen.append(native.array_of(v))
        return v.sum()

    torch.func.grad(look)(values.detach())
    torch.vmap(look)(values.detach().expand(2, 3))
    assert seen == [None, None]

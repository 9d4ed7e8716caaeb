"""Triton's compiler, which needs no card."""

import pytest


def compiled(capability, kernel, types, **options):
    """Compile a kernel down to machine code for a kind of cards.

    Args:
        capability: That of the cards: 80 for sm_80.
        kernel: The kernel.
        types: Types of arguments (``"*fp32"``, ``"i64"``; ``"i32"`` where not said), and values of
            those that are constants.
        options: Those of the launch.
    """
    # Without Triton, pytest must be able to read the folder.
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = [parameter.name for parameter in kernel.params]
    constants = {n: value for n, value in types.items() if not isinstance(value, str)}
    assert set(types) <= set(names)
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32") for name in names
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert found.asm["cubin"]
    return found


@pytest.fixture(params=[80, 90], ids=lambda capability: f"sm_{capability}")
def assembly(request):
    """Return a function that compiles a kernel for a kind of cards, and returns the PTX or another
    form of it.
    """

    def form_of(kernel, types, form="ptx", **options):
        return compiled(request.param, kernel, types, **options).asm[form]

    return form_of


@pytest.fixture
def compilations(monkeypatch):
    """Let kernels be compiled for a card when they are launched, and not run; return the names of
    those that were, once for each time.
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Driver:
        def get_current_target(self):
            return GPUTarget("cuda", 80, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

    found, run, compiling = [], JITFunction.run, JITFunction._do_compile

    def note(kernel, *arguments):
        found.append(kernel.__name__)
        return compiling(kernel, *arguments)

    monkeypatch.setattr(JITFunction, "run", lambda *a, warmup, **o: run(*a, warmup=True, **o))
    monkeypatch.setattr(JITFunction, "_do_compile", note)
    monkeypatch.setattr(driver, "_active", Driver())
    return found

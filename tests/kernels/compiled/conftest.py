"""Triton's compiler, which needs no card."""

import pytest


@pytest.fixture(params=[80, 90], ids=lambda capability: f"sm_{capability}")
def assembly(request):
    """Return a function that compiles a kernel down to machine code for a kind of cards, and
    returns the PTX or another form of it.
    """
    # Without Triton, pytest must be able to read the folder.
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def compiled(kernel, types, form="ptx", **options):
        """Compile with the types of arguments (``"*fp32"``, ``"i64"``; ``"i32"`` where not said),
        and values of those that are constants.
        """
        names = [parameter.name for parameter in kernel.params]
        constants = {n: value for n, value in types.items() if not isinstance(value, str)}
        assert set(types) <= set(names)
        signature = {
            name: "constexpr" if name in constants else types.get(name, "i32") for name in names
        }
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        found = triton.compile(source, target=GPUTarget("cuda", request.param, 32), options=options)
        assert found.asm["cubin"]
        return found.asm[form]

    return compiled

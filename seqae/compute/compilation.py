"""torch.compile: whether it can work here, and how often it may compile."""

__all__ = ["allow_compilations", "has_compiler"]


def allow_compilations(count: int) -> None:
    """Lets torch.compile compile a step at least so often beyond its usual limit, after which it would run eagerly.

    Every T of a growing run is compiled once.
    """
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, 8 + count)


def has_compiler() -> bool:
    """Whether torch.compile can work on a CPU here."""
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return False
    return True

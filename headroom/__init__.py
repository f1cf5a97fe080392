"""The front door: the command line. It imports the other packages only where a command needs them."""


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for: that takes a while, and every start would wait for it."""
    if name != "__version__":
        raise AttributeError(f"module 'headroom' has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415

    return version("headroom")

"""The front door: the command line. It imports the other packages only where a command needs them."""

from importlib.metadata import version

__version__ = version("headroom")

"""Our own failures: what went wrong, where, and what to do about it.

Failures of the system under test are data (see samples.Outcome) and never raise.
"""

from __future__ import annotations


class HeadroomError(Exception):
    """Anything a user can put right. `exit_code` is what the command line ends with."""

    exit_code = 1


class ConfigError(HeadroomError):
    """A flag, a key of loadtest.toml or a line of a trace that cannot be used; the message names it."""

    exit_code = 2


class TargetError(HeadroomError):
    """The probe found no chat deployment at the target; nothing else was sent."""

    exit_code = 2


class TargetRefused(HeadroomError):  # noqa: N818 - the rails refused; the target did not fail
    """A host that is not loopback and was not allowed by name; nothing was sent."""

    exit_code = 112


class RunFolderError(HeadroomError):
    """A run folder that cannot be written, read or trusted."""

    exit_code = 2


class InvalidRun(HeadroomError):  # noqa: N818 - the run is, and it is no fault of ours
    """A run that measured its own generator, or too little, where one is needed that may be believed."""

    exit_code = 4


class Interrupted(HeadroomError):  # noqa: N818 - somebody stopped it, and nothing went wrong
    """A run that was cut short: by hand, by the budget, by a threshold, or by what the answers said. The message says
    by what; `exit_code` is of that, and by hand unless another is given."""

    exit_code = 105

    def __init__(self, reason: str, exit_code: int = exit_code) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class CapacityError(HeadroomError):
    """Measured steps from which no serving model follows, or a question that the model cannot answer."""

    exit_code = 2

"""Every exception of the product, grouped by who must act. Expected results are values, not these."""

from __future__ import annotations


class AutoshipError(Exception):
    """The message says what to do; `exit_code` is what the command line ends with."""

    exit_code = 4


# The sender must act.


class DeliveryRejected(AutoshipError):
    """An HTTP delivery that is answered with `status` and stored nowhere."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"delivery answered {status}: {reason}")
        self.status = status
        self.reason = reason


# Whoever configures the service must act.


class ConfigurationError(AutoshipError):
    """All problems found together, one line each."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class RulesError(ConfigurationError):
    """The rules file cannot be used; each problem names its line."""


class DatabaseOutdated(ConfigurationError):
    """The schema is older or newer than this code, or not there at all."""


class DatabaseOfAnotherOms(ConfigurationError):
    """The database was made for another `OMS_BASE_URL`."""


# Whoever operates the machines must act.


class OmsUnreachable(AutoshipError):
    """The OMS gave no usable answer to a read that a person asked for."""

    exit_code = 3


class DatabaseUnavailable(AutoshipError):
    """No transaction could be finished: gone, locked or full."""

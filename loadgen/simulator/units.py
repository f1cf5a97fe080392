"""Units of time in nanoseconds, and an instant that never comes."""

from loadgen.quota import NEVER_NS, NS_PER_S

NS_PER_MS = 1_000_000

__all__ = ["NEVER_NS", "NS_PER_MS", "NS_PER_S"]

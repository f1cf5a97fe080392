"""What the service does not do, and says so with an HTTP status."""

from __future__ import annotations

from collections.abc import Mapping


class Refusal(Exception):  # noqa: N818 - the service refuses; nothing has failed
    """Answered as `{"error": {"message": ..., "where": ...}}`; `where` names the field, where there is one."""

    headers: Mapping[str, str] | None = None  # of the answer

    def __init__(self, status: int, message: str, *, where: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.where = status, message, where

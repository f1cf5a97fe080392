"""What was submitted under a key: who asks again gets what there is already, and no load is sent twice.

The header `Idempotency-Key` of draft-ietf-httpapi-idempotency-key-header: the same key and body are answered as they
were the first time, another body under the same key is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from headroom.service.database import Connection
from headroom.service.refusals import Refusal

HEADER = "idempotency-key"
KEY = re.compile(r'"?([!#-~]{1,100})"?')  # bare, or a string as in RFC 9651: both are the same key
KEPT = timedelta(days=30)
GONE = 409


@dataclass(frozen=True, slots=True)
class Once:
    """A submission that makes one thing, however often it comes."""

    key: str
    body: str  # SHA-256 of what was asked for, as hexadecimal digits


class SpentKey(Refusal):
    """The key has made something else, or something that is no more."""

    def __init__(self, status: int, message: str, made: str) -> None:
        super().__init__(status, message, where=HEADER)
        self.made = made


def fresh_key() -> str:
    return secrets.token_urlsafe(18)


def once_of(given: Sequence[str], job: Mapping[str, Any]) -> Once | None:
    """`given`: the keys that came, of which none means that each request makes a job. Raises Refusal: 400, or 422."""
    if not given:
        return None
    found = KEY.fullmatch(given[0].strip()) if len(given) == 1 else None
    if found is None:
        raise Refusal(400, "one key of 1 to 100 printable ASCII characters without blanks and quotes", where=HEADER)
    try:
        body = json.dumps(job, sort_keys=True, default=str)
    except RecursionError:
        raise Refusal(422, "tables and lists lie too deep", where="config") from None
    return Once(found[1], hashlib.sha256(body.encode()).hexdigest())


def made_by(database: Connection, asked: Once | None) -> str | None:
    """The id of the job or schedule that the key has made; None of a new key. Raises SpentKey (422)."""
    if asked is None:
        return None
    row = database.execute("SELECT body, made FROM submissions WHERE key = ?", [asked.key]).fetchone()
    if row is None:
        return None
    if row[0] != asked.body:
        raise SpentKey(422, f"this key has submitted something else, {row[1]}: a new job needs a new key", row[1])
    return str(row[1])


def remember(database: Connection, asked: Once | None, made: str, at_utc: str) -> None:
    """In the transaction that makes it: both are there, or neither."""
    if asked is not None:
        database.execute("INSERT INTO submissions VALUES (?, ?, ?, ?)", [asked.key, asked.body, made, at_utc])


def gone(made: str) -> SpentKey:
    """It was removed since, and is not made anew by who asks late."""
    return SpentKey(GONE, f"what this key has submitted, {made}, is no more: a new job needs a new key", made)


def forget(database: Connection, before_utc: str) -> None:
    database.execute("DELETE FROM submissions WHERE created_utc < ?", [before_utc])

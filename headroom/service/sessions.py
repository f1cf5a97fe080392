"""What a browser holds instead of the token: signed by it, for a month, and of no use once it was signed out."""

from __future__ import annotations

import hmac
import secrets
import threading
import time

from headroom.service.database import Database

SESSION_S = 30 * 86_400


class Sessions:
    """A session is `END.NAME.SIGNATURE`. It outlives restarts, and so do those that were ended; it is checked without
    a look into the database, since each request is."""

    def __init__(self, token: bytes, database: Database) -> None:
        self._token, self._database = token, database
        self._ending = threading.Lock()  # many sign out at once, each in a thread of its own
        self._ended: dict[str, int] = dict(database.rows("SELECT session, ends_s FROM ended_sessions"))

    def fresh(self) -> str:
        return self._signed(f"{int(time.time()) + SESSION_S}.{secrets.token_urlsafe(16)}")

    def _signed(self, named: str) -> str:
        return f"{named}.{hmac.new(self._token, f'headroom session {named}'.encode(), 'sha256').hexdigest()}"

    def hold(self, session: str) -> bool:
        """Whether it is one of ours that has not ended."""
        named, ends_s = session.rpartition(".")[0], session.partition(".")[0]
        if not (ends_s.isascii() and ends_s.isdecimal() and len(ends_s) < 16):
            return False
        signed = hmac.compare_digest(session.encode(), self._signed(named).encode())
        return signed and time.time() < int(ends_s) and named not in self._ended

    def end(self, session: str) -> None:
        """For good: who has copied it holds nothing either. Of one that has ended already nothing changes."""
        if not self.hold(session):
            return
        named, ends_s, now_s = session.rpartition(".")[0], int(session.partition(".")[0]), int(time.time())
        with self._ending:  # before it is written down: a full disk holds up none
            kept = {each: end_s for each, end_s in self._ended.items() if end_s > now_s}
            self._ended = kept | {named: ends_s}
        with self._database.writing() as database:
            database.execute("DELETE FROM ended_sessions WHERE ends_s <= ?", [now_s])
            database.execute("INSERT OR IGNORE INTO ended_sessions VALUES (?, ?)", [named, ends_s])

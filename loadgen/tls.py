"""TLS in memory: what arrives goes in encrypted, what leaves comes out encrypted. No socket, so no waiting."""

from __future__ import annotations

import ssl

PIECE_BYTES = 65_536


class HandshakeFailed(Exception):  # noqa: N818 - data about the server, not an error of ours
    """`args[0]` is the error code."""


class Session:
    """One session on one connection. `ended` is True once the server has said that it will send no more."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.ended = False

    def shake_hands(self, received: bytes) -> bool:
        """Take what was received; True once the session stands. `pending` is to be sent either way.

        Raises HandshakeFailed.
        """
        self._incoming.write(received)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError:
            raise HandshakeFailed("tls_certificate_not_trusted") from None
        except ssl.SSLError as error:
            raise HandshakeFailed(f"tls_{(error.reason or 'failed').lower()}") from None
        return True

    def pending(self) -> bytes:
        """What the session itself has to send: its part of the handshake, or why it ends."""
        return self._outgoing.read()

    def encrypt(self, payload: bytes) -> bytes:
        self._object.write(payload)
        return self._outgoing.read()

    def decrypt(self, received: bytes) -> bytes:
        """The plain bytes that are complete by now; sets `ended` where the session ends with them."""
        self._incoming.write(received)
        plain = b""
        try:
            while piece := self._object.read(PIECE_BYTES):
                plain = plain + piece if plain else piece
        except ssl.SSLWantReadError:
            return plain
        except ssl.SSLError:  # a record that cannot be read ends the session too, and what follows is lost
            pass
        self.ended = True
        return plain

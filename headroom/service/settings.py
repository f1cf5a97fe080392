"""What the service was started with: where it listens, what it may load, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from loadgen.config import TargetConfig
from loadgen.errors import ConfigError
from loadgen.target import Address, address_of, credential_of, is_loopback

STATE_FOLDER = ".service"  # beside the run folders: the queue, and each job's files
SHORTEST_TOKEN = 16  # characters; shorter ones can be guessed by who may try for weeks


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedTarget:
    """A deployment that jobs may load. Its key is the service's, and no job names another."""

    address: Address
    key: str | None  # env:NAME, file:PATH, entra or None

    @classmethod
    def parse(cls, text: str) -> AllowedTarget:
        """Of `URL` or `URL,KEY`. Raises ConfigError."""
        url, comma, key = text.partition(",")
        if comma and key != "entra" and not key.startswith(("env:", "file:")):
            raise ConfigError(
                "--allow-target: what comes after the comma must say where the key is, not be the key: "
                "URL,env:NAME or URL,file:PATH or URL,entra"
            )
        if key.startswith("file:"):
            key = f"file:{Path(key.removeprefix('file:')).absolute()}"  # jobs work in another folder
        return cls(address=address_of(url), key=key or None)

    def check_key(self, environment: Mapping[str, str]) -> None:
        """Raises ConfigError where there is none to be read; a token of Entra ID is asked for by each job."""
        if self.key is None or self.key == "entra":
            return
        try:
            credential_of(TargetConfig(key=self.key), environment)
        except ConfigError as error:
            raise ConfigError(f"--allow-target {self.address.origin}: on the service's machine, {error}") from None

    def covers(self, address: Address) -> bool:
        """Whether it is the same scheme, host and port, at this path or below it; a path that climbs is not."""
        climbs = {".", ".."} & set(address.path.split("/")) or "%" in address.path or "\\" in address.path
        return (
            not climbs
            and address.origin == self.address.origin
            and (address.path == self.address.path or address.path.startswith(f"{self.address.path}/"))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What one job may use up at most, whatever it asks for."""

    requests: int = 100_000
    tokens: int = 20_000_000
    duration_s: float = 3_600.0
    queued: int = 1_000  # jobs that wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of `headroom serve`."""

    runs: Path
    host: str = "127.0.0.1"
    port: int = 8089
    token: str | None = field(default=None, repr=False)
    parallel: int = 1
    targets: tuple[AllowedTarget, ...] = ()
    hosts: tuple[str, ...] = ()  # names that a browser may call the service by, beside the address it listens on
    caps: Caps = Caps()
    keep: timedelta | None = None  # how long jobs that have ended are kept; None: for good
    data: Path | None = None  # prompts, pictures and traces that jobs may name

    def __post_init__(self) -> None:
        """Raises ConfigError for what would be served without a lock."""
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise ConfigError(
                f"the token has fewer than {SHORTEST_TOKEN} characters: take one like `openssl rand -hex 32`"
            )
        if self.token is None and not self.on_loopback:
            raise ConfigError(
                f"--host {self.host} can be reached from other machines, so it needs a token: give --token-file FILE, "
                "or set HEADROOM_TOKEN"
            )

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def state(self) -> Path:
        return self.runs / STATE_FOLDER

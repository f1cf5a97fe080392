"""Over which processes a load is spread."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from loadgen.fields import Section, Whole


class SpreadConfig(Section):
    """One process, several on this machine, or workers on others."""

    processes: Whole = Field(
        1, ge=-1, le=1_000, description="load processes on this machine that share the load; -1: one a core"
    )
    master: bool = Field(False, description="wait for `headroom worker` on other machines, and let them make the load")
    bind: str = Field(
        "127.0.0.1:5557", description="HOST:PORT where a master listens for workers; the channel has no key of its own"
    )
    workers: Whole = Field(1, ge=1, le=1_000, description="so many workers a master waits for before it starts")

    @model_validator(mode="after")
    def _one_way_to_spread(self) -> Self:
        if self.processes == 0:
            raise ValueError("processes must be 1 or more, or -1 for one a core")
        if self.master and self.processes != 1:
            raise ValueError("a master starts no processes of its own: start workers beside it, or leave --master away")
        return self

    @field_validator("bind")
    @classmethod
    def _is_a_place(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65_535:
            raise ValueError(f"{value!r} is not HOST:PORT; write 0.0.0.0:5557 for all of this machine's addresses")
        return value

    @property
    def distributed(self) -> bool:
        """Several processes make the load, or others than this one."""
        return self.master or self.processes != 1

"""Where the run's metrics go while it lasts, beside its record."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from loadgen.fields import Section

BY_ENVIRONMENT = "env"


class TelemetryConfig(Section):
    """OpenTelemetry metrics; off unless a collector is named."""

    otlp: str | None = Field(
        None,
        description="an OTLP/HTTP collector's address, like `http://127.0.0.1:4318`, or `env`: where the "
        "`OTEL_EXPORTER_OTLP_*` variables say; needs the extra `otel`",
    )

    @field_validator("otlp")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is None or value == BY_ENVIRONMENT:
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be http://HOST:PORT of an OTLP/HTTP collector, or `env`")
        if parts.username is not None or parts.query:
            raise ValueError("holds a secret, which would be stored: put it into OTEL_EXPORTER_OTLP_HEADERS")
        return value

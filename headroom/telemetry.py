"""Metrics of a run for an OpenTelemetry collector, by OTLP over HTTP, while it lasts.

They are counted from the record, and sent by a thread of their own as sums since the run's start: what a collector
misses it gets the next time. Nothing here slows the load, and nothing that fails here ends it.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dashboards.readable import readable
from loadgen.config import Dialect, RunConfig, TargetConfig
from loadgen.errors import ConfigError
from loadgen.samples import Manifest
from loadgen.telemetry_config import BY_ENVIRONMENT
from planner.client_metrics import ClientMetrics, Counted, Series
from planner.growing import Rows

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData

EVERY_S = 5.0
PATIENCE_S = 3.0  # for one export, and in the end for the last
SCOPE = "headroom"
OPERATIONS = {"completions": "text_completion", "embeddings": "embeddings", "image_embeddings": "embeddings"}
PROVIDERS = {Dialect.AZURE: "azure.ai.inference", Dialect.OPENAI: "openai"}

Export = Callable[["MetricsData"], str | None]  # returns what went wrong


class Telemetry:
    """One for a command: it starts one `RunMetrics` after the other."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._waiting: queue.Queue[MetricsData | None] = queue.Queue(1)
        self._failed = False
        self._thread = threading.Thread(target=self._work, name="telemetry", daemon=True)
        self._thread.start()

    def of_run(self, manifest: Manifest, config: RunConfig) -> RunMetrics:
        return RunMetrics(Names.of(manifest, config), self._offer)

    def close(self) -> None:
        """What waits is sent, unless that takes too long."""
        try:
            self._waiting.put(None, timeout=2 * PATIENCE_S)
        except queue.Full:
            return
        self._thread.join(2 * PATIENCE_S)

    def _offer(self, data: MetricsData, last: bool) -> None:
        """While one is on its way the next is left out: the one after says the same and more."""
        try:
            self._waiting.put(data, block=last, timeout=2 * PATIENCE_S)
        except queue.Full:
            if last:
                self._note("the collector takes too long: the last figures of a run were not sent")

    def _work(self) -> None:
        while (data := self._waiting.get()) is not None:
            try:
                failure = self._export(data)
            except Exception as error:  # a library's: whatever it is, the run has nothing to do with it
                failure = f"{type(error).__name__}: {error}"
            if failure is not None:
                self._note(failure)

    def _note(self, failure: str) -> None:
        if not self._failed:
            self._failed = True
            sys.stderr.write(f"headroom: telemetry: {readable(failure)}; the run goes on, and is recorded\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the conventions call the things of a run."""

    resource: dict[str, Any]
    targets: dict[str | None, dict[str, Any]]  # attributes by target; of the only one under None

    @classmethod
    def of(cls, manifest: Manifest, config: RunConfig) -> Names:
        resource = {"service.name": SCOPE, "service.version": version("headroom"), "headroom.run.id": manifest.run_id}
        alone = len(config.targets) == 1
        targets = {
            None if alone else target.name: _attributes(target, manifest.deployment_of(target.name))
            for target in config.targets
        }
        return cls(resource=resource, targets=targets)

    def attributes(self, series: Series) -> dict[str, Any]:
        attributes = {
            "gen_ai.operation.name": OPERATIONS.get(series.scenario, "chat"),
            **self.targets.get(series.target, self.targets.get(None, {})),
            "headroom.scenario": readable(series.scenario),
        }
        if series.instrument.token_type is not None:
            attributes["gen_ai.token.type"] = series.instrument.token_type
        if series.error is not None:
            attributes["error.type"] = series.error
        return attributes


def _attributes(target: TargetConfig, about: dict[str, Any]) -> dict[str, Any]:
    parts = urlsplit(target.url or "")
    model = target.model or about.get("model_name")
    attributes: dict[str, Any] = {
        "gen_ai.provider.name": PROVIDERS[target.dialect],
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }
    return attributes if model is None else attributes | {"gen_ai.request.model": readable(str(model))}


class RunMetrics:
    """Counts the rows of one run, and offers the sums now and then."""

    def __init__(self, names: Names, offer: Callable[[MetricsData, bool], None]) -> None:
        self._names, self._offer = names, offer
        self._metrics = ClientMetrics()
        self._began_ns = time.time_ns()
        self._next_s = time.monotonic() + EVERY_S

    def take(self, rows: Rows) -> None:
        self._metrics.take(rows)
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + EVERY_S
            self._send(last=False)

    def close(self) -> None:
        self._send(last=True)

    def _send(self, *, last: bool) -> None:
        if self._metrics.histograms:
            data = metrics_data(self._names, self._metrics.histograms, self._began_ns, time.time_ns())
            self._offer(data, last)


def metrics_data(names: Names, histograms: dict[Series, Counted], began_ns: int, now_ns: int) -> MetricsData:
    """As OpenTelemetry's own readers would hand it to an exporter: cumulative, in the units of the conventions."""
    from opentelemetry.sdk.metrics import export  # noqa: PLC0415 - of the extra
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

    points: dict[str, list[export.HistogramDataPoint]] = {}
    about = {}
    for series, counted in histograms.items():
        instrument = series.instrument
        about[instrument.name] = instrument
        points.setdefault(instrument.name, []).append(
            export.HistogramDataPoint(
                attributes=names.attributes(series),
                start_time_unix_nano=began_ns,
                time_unix_nano=now_ns,
                count=counted.n,
                sum=counted.total / instrument.per_unit,
                bucket_counts=list(counted.buckets),
                explicit_bounds=list(instrument.bounds),
                min=counted.least / instrument.per_unit,
                max=counted.most / instrument.per_unit,
            )
        )
    metrics = [
        export.Metric(
            name=name,
            description=about[name].description,
            unit=about[name].unit,
            data=export.Histogram(of_name, export.AggregationTemporality.CUMULATIVE),
        )
        for name, of_name in points.items()
    ]
    scope = export.ScopeMetrics(InstrumentationScope(SCOPE, version("headroom")), metrics, "")
    return export.MetricsData([export.ResourceMetrics(Resource(names.resource), [scope], "")])


@contextmanager
def telemetry_of(config: RunConfig) -> Iterator[Telemetry | None]:
    """None where the config names no collector. Raises ConfigError where the extra is not installed."""
    if config.telemetry.otlp is None:
        yield None
        return
    telemetry = Telemetry(_exporter(config.telemetry.otlp))
    try:
        yield telemetry
    finally:
        telemetry.close()


def _exporter(otlp: str) -> Export:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
        from opentelemetry.sdk.metrics.export import MetricExportResult  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            "telemetry.otlp needs OpenTelemetry's exporter, which is not installed: .venv/bin/pip install -e '.[otel]'"
        ) from None
    heard = _Heard()
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(heard)
    logger.propagate = False  # it would write to standard error, over the panel, at each failure
    endpoint = None if otlp == BY_ENVIRONMENT else f"{otlp.rstrip('/')}/v1/metrics"
    try:
        exporter = OTLPMetricExporter(endpoint=endpoint, timeout=PATIENCE_S)
    except (OSError, ValueError) as error:
        raise ConfigError(f"telemetry.otlp: the OTEL_EXPORTER_OTLP_* variables cannot be used: {error}") from None

    def export(data: MetricsData) -> str | None:
        heard.last = None
        if exporter.export(data) is MetricExportResult.SUCCESS:
            return None
        return heard.last or "the metrics could not be sent"

    return export


class _Heard(logging.Handler):
    """What the exporter last said went wrong."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.last = " ".join(record.getMessage().split())[:300]

"""The way to a collector: what was told, sent by the official exporters of OpenTelemetry.

It is loaded only where settings want that. The exporters read the standard variables (`OTEL_EXPORTER_OTLP_...`) for
what settings leave out, speak HTTP themselves and try again within their time limit. They only log why they gave up, so
that is listened to.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from reconciler import __version__
from reconciler.errors import TransientError, UsageError
from reconciler.loglines import LogRecord
from reconciler.model import Otlp
from reconciler.redact import redact_text, secret_values
from reconciler.tracing import BOUNDS_S, Span, Sums
from reconciler.values import frozen

NEEDS = "telemetry needs the extra 'otel'; run: python3 -m pip install 'gitops-reconciler[otel]'"
REASON_MAX = 300
SCHEMA_URL = "https://opentelemetry.io/schemas/1.36.0"


class _Heard(logging.Handler):
    """The first thing the exporters said, which is the cause, kept from everybody's terminal."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said = self.said or " ".join(record.getMessage().split())


@frozen
class Parcel:
    """What is sent at once: spans, log records, and the sums as they are at `now_ns`; `about` says who we are."""

    spans: Sequence[Span]
    records: Sequence[LogRecord]
    sums: Sums
    now_ns: int
    about: Mapping[str, str]


def send(otlp: Otlp, parcel: Parcel) -> None:
    """Send what settings want of a parcel. Raise TransientError if the collector did not take it, UsageError where what
    is needed is not installed."""
    heard, logger = _Heard(), logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.addHandler(heard)
    try:
        _send(otlp, parcel)
    except ImportError:
        raise UsageError(NEEDS) from None
    except _Failed as error:
        raise TransientError(f"{error} were not taken by the collector: {_safe(otlp, heard.said)}") from None
    except Exception as error:  # whatever a library does, a pass goes on
        raise TransientError(f"the exporter failed: {_safe(otlp, f'{type(error).__name__}: {error}')}") from None
    finally:
        logger.removeHandler(heard)


class _Failed(Exception):
    """What was not taken."""


def _send(otlp: Otlp, parcel: Parcel) -> None:
    """Send one signal after the other. Log records come last: a collector cannot tell two of them apart by an id, so
    they are not to be sent again because something else was refused."""
    from opentelemetry.sdk.resources import Resource

    resource = Resource.create({"service.version": __version__, **_named(), **parcel.about})
    if "traces" in otlp.signals and parcel.spans:
        _send_traces(otlp, parcel, resource)
    if "metrics" in otlp.signals:
        _send_metrics(otlp, parcel, resource)
    if "logs" in otlp.signals and parcel.records:
        _send_logs(otlp, parcel, resource)


def _send_traces(otlp: Otlp, parcel: Parcel, resource: Any) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    exporter = OTLPSpanExporter(**_told(otlp, "v1/traces"))
    try:
        if exporter.export(_spans(parcel.spans, resource)) is not SpanExportResult.SUCCESS:
            raise _Failed("spans")
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]


def _send_metrics(otlp: Otlp, parcel: Parcel, resource: Any) -> None:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import MetricExportResult

    exporter = OTLPMetricExporter(**_told(otlp, "v1/metrics"))
    try:
        if exporter.export(_metrics(parcel.sums, parcel.now_ns, resource)) is not MetricExportResult.SUCCESS:
            raise _Failed("metrics")
    finally:
        exporter.shutdown()


def _send_logs(otlp: Otlp, parcel: Parcel, resource: Any) -> None:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs.export import LogRecordExportResult

    exporter = OTLPLogExporter(**_told(otlp, "v1/logs"))
    try:
        if exporter.export(_logs(parcel, resource)) is not LogRecordExportResult.SUCCESS:
            raise _Failed("log records")
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]


def _named() -> dict[str, str]:
    """Return the name of the service, unless the environment gives one."""
    given = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {} if given else {"service.name": "gitops-reconciler"}


def _told(otlp: Otlp, path: str) -> dict[str, Any]:
    """Return what an exporter is told; what is left out it reads from the environment."""
    found: dict[str, Any] = {"timeout": otlp.timeout_s} if otlp.timeout_s is not None else {}
    if otlp.endpoint:
        found["endpoint"] = f"{otlp.endpoint.rstrip('/')}/{path}"
    if otlp.headers_env:
        from opentelemetry.util.re import parse_env_headers

        found["headers"] = parse_env_headers(os.environ.get(otlp.headers_env, ""), liberal=True)
    return found


def _safe(otlp: Otlp, said: str) -> str:
    """Return what a library said, bounded, without secrets: what holds headers is one, whatever its name looks like."""
    headers = {"HEADERS_SECRET": os.environ.get(otlp.headers_env, "")}
    values = secret_values({**os.environ, **headers})
    return redact_text(said, values=values)[:REASON_MAX] or "it gave no reason"


# ------------------------------------------------------------------------------------------------ in their words


def _spans(spans: Sequence[Span], resource: Any) -> list[Any]:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

    scope = InstrumentationScope("reconciler", __version__, SCHEMA_URL)
    kinds = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL}

    def context(trace_id: str, span_id: str) -> SpanContext:
        sampled = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=sampled)

    return [
        ReadableSpan(
            name=each.name,
            context=context(each.trace_id, each.span_id),
            parent=context(each.trace_id, each.parent_id) if each.parent_id else None,
            resource=resource,
            attributes=dict(each.attributes),
            links=[Link(context(each.trace_id, link)) for link in each.links],
            kind=kinds[each.kind],
            status=Status(StatusCode.ERROR, each.failed) if each.failed else Status(StatusCode.OK),
            start_time=each.start_ns,
            end_time=each.end_ns,
            instrumentation_scope=scope,
        )
        for each in spans
    ]


def _logs(parcel: Parcel, resource: Any) -> list[Any]:
    """Return log records as the SDK has them; whoever observes them does so now."""
    from opentelemetry._logs import LogRecord as Said
    from opentelemetry._logs import SeverityNumber
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    scope, sampled = InstrumentationScope("reconciler", __version__, SCHEMA_URL), TraceFlags(TraceFlags.SAMPLED)
    found = []
    for each in parcel.records:
        span = SpanContext(int(each.trace_id, 16), int(each.span_id, 16), is_remote=False, trace_flags=sampled)
        said = Said(
            timestamp=each.at_ns,
            observed_timestamp=parcel.now_ns,
            context=set_span_in_context(NonRecordingSpan(span)),
            severity_text=each.severity,
            severity_number=SeverityNumber[each.severity],
            body=each.body,
            attributes=dict(each.attributes),
            event_name=each.name,
        )
        found.append(ReadableLogRecord(said, resource, scope))
    return found


def _metrics(sums: Sums, now_ns: int, resource: Any) -> Any:
    from opentelemetry.sdk.metrics.export import Metric, MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    took, failed = "Duration of a pipeline run grouped by pipeline, state and result.", "Errors in pipeline runs."
    metrics = [
        Metric("cicd.pipeline.run.duration", took, "s", _histogram(sums, now_ns)),
        Metric("cicd.pipeline.run.errors", failed, "{error}", _counter(sums, now_ns)),
    ]
    scope = InstrumentationScope("reconciler", __version__, SCHEMA_URL)
    of_scope = ScopeMetrics(scope, [each for each in metrics if each.data.data_points], SCHEMA_URL)
    return MetricsData([ResourceMetrics(resource, [of_scope], SCHEMA_URL)])


def _histogram(sums: Sums, now_ns: int) -> Any:
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint

    points = [
        HistogramDataPoint(
            attributes={
                "cicd.pipeline.name": each.pipeline_id,
                "cicd.pipeline.run.state": "executing",
                "cicd.pipeline.result": each.result,
                **({"error.type": each.result} if each.result in ("failure", "timeout") else {}),
            },
            start_time_unix_nano=sums.since_ns,
            time_unix_nano=now_ns,
            count=each.count,
            sum=each.sum_s,
            bucket_counts=list(each.buckets),
            explicit_bounds=list(BOUNDS_S),
            min=None,  # type: ignore[arg-type]
            max=None,  # type: ignore[arg-type]
        )
        for each in sums.durations
    ]
    return Histogram(points, AggregationTemporality.CUMULATIVE)


def _counter(sums: Sums, now_ns: int) -> Any:
    from opentelemetry.sdk.metrics.export import AggregationTemporality, NumberDataPoint, Sum

    points = [
        NumberDataPoint(
            attributes={"cicd.pipeline.name": each.pipeline_id, "error.type": each.type},
            start_time_unix_nano=sums.since_ns,
            time_unix_nano=now_ns,
            value=each.count,
        )
        for each in sums.errors
    ]
    return Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)

"""A collector of OpenTelemetry on loopback: it understands what arrives, and refuses or hangs when it is told to."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


@dataclass
class Collector:
    """What has arrived, in order. `status` is what it answers; while `open` is not set it does not answer at all."""

    status: int = 200
    headers: list[dict[str, str]] = field(default_factory=list)
    traces: list[Any] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Collector:
        collector = self
        self.open.set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.open.wait(30)
                collector.take(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *words: object) -> None:
        self.open.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert headers["content-type"] == "application/x-protobuf"
        message: Any = KINDS[path]()
        message.ParseFromString(body)
        self.headers.append(headers)
        self.data.append(body)
        if self.status == 200:
            {"/v1/traces": self.traces, "/v1/metrics": self.metrics, "/v1/logs": self.logs}[path].append(message)

    def spans(self) -> list[Any]:
        """Return every span that was taken, as often as it was."""
        return [
            span
            for message in self.traces
            for of_resource in message.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def records(self) -> list[Any]:
        """Return every log record that was taken, as often as it was."""
        return [
            record
            for message in self.logs
            for of_resource in message.resource_logs
            for of_scope in of_resource.scope_logs
            for record in of_scope.log_records
        ]

    def points(self, name: str) -> dict[tuple[str, ...], Any]:
        """Return the newest points of a metric, by the values of their attributes."""
        found: dict[tuple[str, ...], Any] = {}
        for message in self.metrics:
            for of_resource in message.resource_metrics:
                for of_scope in of_resource.scope_metrics:
                    for metric in (each for each in of_scope.metrics if each.name == name):
                        for point in (*metric.histogram.data_points, *metric.sum.data_points):
                            found[tuple(sorted(attributes(point.attributes).values()))] = point
        return found


def attributes(found: Any) -> dict[str, Any]:
    """Return attributes as a mapping of plain values."""
    return {each.key: next(iter(MessageToDict(each.value).values())) for each in found}

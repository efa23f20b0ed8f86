"""A receiver of OTLP traces over HTTP, which remembers the spans of each trace."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


@dataclass(frozen=True)
class SeenSpan:
    """A span as a service exported it; ids are hexadecimal."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    attributes: dict[str, Any]


class TraceReceiver:
    """Where it listens, and what it got so far."""

    def __init__(self) -> None:
        self.spans: list[SeenSpan] = []
        self.wanted: dict[str, str] = {}
        """Headers without which nothing is taken."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                known = all(self.headers.get(name) == value for name, value in receiver.wanted.items())
                if known and self.path.endswith("/v1/traces"):  # metrics come, too
                    receiver._take(body)
                self.send_response(200 if known else 401)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet: the tests look at `spans`."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        for resource_spans in request.resource_spans:
            attributes = {a.key: a.value.string_value for a in resource_spans.resource.attributes}
            for scope in resource_spans.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        SeenSpan(
                            trace_id=span.trace_id.hex(),
                            span_id=span.span_id.hex(),
                            parent_id=span.parent_span_id.hex(),
                            service=attributes.get("service.name", ""),
                            name=span.name,
                            attributes={one.key: _value(one.value) for one in span.attributes},
                        )
                    )

    def spans_of(self, trace_id: str) -> list[SeenSpan]:
        """The spans of a trace so far, each once: an exporter that gets no answer in time sends them again."""
        return list({span.span_id: span for span in self.spans if span.trace_id == trace_id}.values())

    def services_of(self, trace_id: str) -> set[str]:
        """The services that took part in a trace."""
        return {span.service for span in self.spans_of(trace_id)}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None


@contextmanager
def trace_receiver() -> Iterator[TraceReceiver]:
    receiver = TraceReceiver()
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.01,), name="otlp", daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()

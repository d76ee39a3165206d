"""OpenTelemetry traces of one process, off by default.

A job is one trace: the request that submitted it, the submission to the cluster, the driver's attempt and the training
in its workers. The parts hand on a `traceparent` (W3C Trace Context), which holds ids alone. Attributes are ids,
numbers and words of ours, never what a user wrote.

FastAPI's own telemetry stays off: it puts the query of each request into its spans.
"""

import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobs.telemetry.log_records import current_traceparent, without_secrets
from seqae.errors import Error

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan

__all__ = [
    "CONSOLE",
    "TRACEPARENT_VARIABLE",
    "TRACES_VARIABLE",
    "Span",
    "Tracing",
    "make_tracing",
    "tracing_of_job",
    "valid_traceparent",
]

TRACES_VARIABLE = "SEQAE_TRACES"
"""Environment variable: where traces go; empty: nowhere."""

TRACEPARENT_VARIABLE = "TRACEPARENT"
"""Environment variable of a driver: the span that started it."""

CONSOLE = "console"

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACES_PATH = "/v1/traces"
_STOP_SECONDS = 2.0
"""Longest wait for the last spans to be sent: a driver has three seconds after SIGTERM."""


class Span:
    """A piece of work that is being traced; the one of a process without traces takes everything and keeps nothing.

    Args:
        span: OpenTelemetry's own; None: traces are off.
    """

    def __init__(self, span: "OtelSpan | None" = None) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        """What makes a span of another process a child of this one; None where traces are off."""
        if self._span is None:
            return None
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def name(self, name: str) -> None:
        """Gives it the name that was not known at its begin."""
        if self._span is not None:
            self._span.update_name(name)

    def set(self, attribute: str, value: str | int) -> None:
        """Adds an attribute."""
        if self._span is not None:
            self._span.set_attribute(attribute, value)

    def fail(self, error_type: str) -> None:
        """Marks it as failed, by the kind of the error alone: messages may quote what users wrote."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR)
            self._span.set_attribute("error.type", error_type)


class Tracing:
    """Makes the spans of this process; makes none where traces are off.

    Args:
        provider: what exports them; None: traces are off.
    """

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("seqae")

    @property
    def is_on(self) -> bool:
        """Whether spans are made."""
        return self._tracer is not None

    @contextmanager
    def span(
        self,
        name: str,
        attributes: Mapping[str, str | int] | None = None,
        *,
        parent: str | None = None,
        is_server: bool = False,
    ) -> Iterator[Span]:
        """A span around a piece of work; one that ends with an exception has failed.

        Args:
            name: of its kind, of which there are few.
            attributes: ids, numbers, words of ours.
            parent: traceparent of a span elsewhere; None: the span of this process that is open, if there is one.
            is_server: whether it answers a request.
        """
        if self._tracer is None:
            yield Span()
            return
        from opentelemetry.trace import SpanKind

        with self._tracer.start_as_current_span(
            name,
            context=None if valid_traceparent(parent) is None else _context_of(str(parent)),
            kind=SpanKind.SERVER if is_server else SpanKind.INTERNAL,
            attributes=dict(attributes or {}),
            record_exception=False,
            set_status_on_exception=False,
        ) as made:
            span = Span(made)
            reset = current_traceparent.set(span.traceparent)
            try:
                yield span
            except Exception as error:
                span.fail(type(error).__name__)
                raise
            finally:
                current_traceparent.reset(reset)

    def stop(self) -> None:
        """Sends what is left, for two seconds at most: a receiver that is away holds up no process."""
        if self._provider is not None:
            thread = threading.Thread(target=self._provider.shutdown, name="stop-tracing", daemon=True)
            thread.start()
            thread.join(_STOP_SECONDS)


def valid_traceparent(text: str | None) -> str | None:
    """A traceparent that another process gave, or None where it is none."""
    return text if text is not None and _TRACEPARENT.fullmatch(text) else None


def make_tracing(target: str, part: str) -> Tracing:
    """Traces of this process.

    Args:
        target: `console`, the http address of a receiver of OTLP, or empty: off.
        part: what this process is, such as `api` or `driver`.

    Raises:
        Error: the packages for it are not installed.
    """
    if not target:
        return Tracing()
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter(target)
    except ImportError as error:
        raise Error(f"{TRACES_VARIABLE} needs packages that are not installed: pip install 'seqae[traces]'") from error
    resource = Resource.create({"service.name": f"seqae-{part}"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


def _exporter(target: str) -> "SpanExporter":
    if target == CONSOLE:
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(
            out=sys.stderr, formatter=lambda span: without_secrets(span.to_json(indent=None)) + "\n"
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    address = target.rstrip("/")
    return OTLPSpanExporter(address if address.endswith(_TRACES_PATH) else address + _TRACES_PATH)


def _context_of(traceparent: str) -> "Context":
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def tracing_of_job(part: str) -> Tracing:
    """Traces of a process of a job, by its environment.

    Args:
        part: `driver` or `worker`.

    Raises:
        Error: the packages for it are not installed on this machine.
    """
    return make_tracing(os.environ.get(TRACES_VARIABLE, ""), part)

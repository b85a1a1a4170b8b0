package span

import (
	"context"
	"net/http"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// impersonal are the attributes that say nothing about whoever sent a request.
var impersonal = []attribute.Key{
	"http.request.method", "url.scheme", "server.address", "server.port", "network.protocol.name", "network.protocol.version",
	decidedKey, reasonKey, routeKey,
}

// What the gate says of a gated request.
const (
	decidedKey attribute.Key = "metrics_gate.decision"
	reasonKey  attribute.Key = "metrics_gate.reason"
	routeKey   attribute.Key = "metrics_gate.route"
)

// Describe adds to a request's span, where one is recorded, which route gates it
// and what was decided.
func Describe(ctx context.Context, route, decision, reason string) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(routeKey.String(route), decidedKey.String(decision), reasonKey.String(reason))
	}
}

// Conceal overwrites what the request's span says of a person: every attribute
// that is not known to be impersonal, among them address, user agent and path.
// For the path, and for the name, which may be made of it, the route stands.
//
// The caller ends the span that is returned. What tracing adds when the handlers
// have returned, such as the size of the answer and the operator's own
// attributes, then finds it closed. Where nothing is recorded, or this cannot be
// done, the span is none.
func Conceal(ctx context.Context, route string) trace.Span {
	span := trace.SpanFromContext(ctx)
	// Only the SDK's spans record, and those can be read.
	recorded, ok := span.(interface{ Attributes() []attribute.KeyValue })
	if !ok || !span.IsRecording() {
		return trace.SpanFromContext(context.Background())
	}
	var hidden []attribute.KeyValue
	for _, known := range recorded.Attributes() {
		if !slices.Contains(impersonal, known.Key) {
			hidden = append(hidden, known.Key.String(""))
		}
	}
	span.SetAttributes(append(hidden, attribute.String("url.path", route), attribute.String("http.route", route))...)
	span.SetName(route)
	return span
}

// End ends a request's span with the status of its answer, as tracing itself
// would. There is none where the answer is still to be made of an error.
func End(span trace.Span, status int) {
	if status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", status))
	}
	if status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

package tracing

import (
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// cut returns text that is fit for a span: a copy of at most limit bytes, and UTF-8.
// One string that is not would make the whole batch impossible to send (Protocol
// Buffers, proto3 strings).
func cut(s string, limit int) string {
	s = strings.ToValidUTF8(strings.Clone(s[:min(len(s), limit)]), "\ufffd")
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// maxValue bounds every attribute, in bytes: the queue is bounded in spans only.
const maxValue = 16 << 10

// limits are those of the environment, and maxValue.
func limits() sdktrace.SpanLimits {
	l := sdktrace.NewSpanLimits()
	if l.AttributeValueLengthLimit < 0 || l.AttributeValueLengthLimit > maxValue {
		l.AttributeValueLengthLimit = maxValue
	}
	return l
}

// sendable returns r with texts that are fit for spans.
func sendable(r *resource.Resource) *resource.Resource {
	attrs := r.Attributes()
	for i, a := range attrs {
		if a.Value.Type() == attribute.STRING {
			attrs[i] = attribute.String(cut(string(a.Key), maxHeader), cut(a.Value.AsString(), maxPath))
		}
	}
	return resource.NewWithAttributes(r.SchemaURL(), attrs...)
}

package otel

import (
	"context"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/cacheaside/cacheaside"
)

// TraceFetch begins the span of a fetch. It belongs to the trace of the look-up that started it. A fetch in
// the background, for which nobody waits, and one whose context has no span since WithFetchContext dropped
// it, begin a trace of their own that is linked to the look-up's.
func (t *Telemetry) TraceFetch(ctx context.Context, info cacheaside.FetchInfo) (context.Context, cacheaside.FetchTrace) {
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindInternal),
		trace.WithAttributes(cacheName.String(info.Cache), background.Bool(info.Background)),
	}
	if info.Background || !trace.SpanContextFromContext(ctx).IsValid() {
		options = append(options, trace.WithNewRoot())
		if trace.SpanContextFromContext(info.Starter).IsValid() {
			options = append(options, trace.WithLinks(trace.LinkFromContext(info.Starter)))
		}
	}
	ctx, span := t.tracer.Start(ctx, "fetch "+info.Cache, options...)
	return ctx, &fetchTrace{span: span, recordErrors: t.recordErrors}
}

// fetchTrace is the span of one fetch.
type fetchTrace struct {
	span         trace.Span
	recordErrors bool
	joined       int
}

// maxLinks is how many of the callers who joined a fetch are linked. All are counted.
const maxLinks = 100

// Joined links the span to that of a caller who waits for it too, and that one to the span: who looks at a
// slow request finds what it waited for.
func (f *fetchTrace) Joined(ctx context.Context) {
	if f.joined++; f.joined > maxLinks {
		return
	}
	caller := trace.SpanFromContext(ctx)
	if !caller.SpanContext().IsValid() {
		return
	}
	f.span.AddLink(trace.Link{SpanContext: caller.SpanContext()})
	caller.AddLink(trace.Link{SpanContext: f.span.SpanContext()})
}

// End ends the span.
func (f *fetchTrace) End(e cacheaside.Event) {
	kind := fetchKind{e.Cache, e.Outcome()}
	f.span.SetAttributes(append(kind.ended(), joined.Int(f.joined))...)
	if kind.outcome != "ok" && kind.outcome != "not_found" {
		f.span.SetStatus(codes.Error, kind.outcome)
		if f.recordErrors {
			f.span.RecordError(e.Err)
		}
	}
	f.span.End()
}

package records

import (
	"encoding/hex"
	"encoding/json"
	"io"
	"math"
	"strings"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// A span is one of a trace as BuildKit's records have it: the JSON of the spans of OpenTelemetry's Go package, one after
// the other.
type span struct {
	Name              string
	SpanContext       spanContext
	Parent            spanContext
	SpanKind          int32 // as in OTLP
	StartTime         time.Time
	EndTime           time.Time
	Attributes        []attribute
	Events            []spanEvent
	Links             []spanLink
	Status            spanStatus
	DroppedAttributes uint32
	DroppedEvents     uint32
	DroppedLinks      uint32
	ChildSpanCount    int
	Resource          []attribute
	Scope             scope `json:"InstrumentationLibrary"`
}

type spanContext struct {
	TraceID    string
	SpanID     string
	TraceFlags string
	TraceState string
	Remote     bool
}

type spanStatus struct {
	Code        string // Unset, Error or Ok
	Description string
}

type spanEvent struct {
	Name                  string
	Attributes            []attribute
	DroppedAttributeCount uint32
	Time                  time.Time
}

type spanLink struct {
	SpanContext           spanContext
	Attributes            []attribute
	DroppedAttributeCount uint32
}

type scope struct {
	Name      string
	Version   string
	SchemaURL string
}

type attribute struct {
	Key   string
	Value attributeValue
}

type attributeValue struct {
	Type  string
	Value any
}

func textAttribute(key, value string) attribute {
	return attribute{key, attributeValue{"STRING", value}}
}

// noSpan is the context of no span.
var noSpan = spanContext{TraceID: hex.EncodeToString(make([]byte, 16)), SpanID: hex.EncodeToString(make([]byte, 8)), TraceFlags: "00"}

func newContext(trace, id string) spanContext {
	return spanContext{TraceID: trace, SpanID: id, TraceFlags: "01"}
}

func writeSpans(w io.Writer, spans []span) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	for i := range spans {
		if err := enc.Encode(&spans[i]); err != nil {
			return err
		}
	}
	return nil
}

// fromOTLP returns a span that a client has sent.
func fromOTLP(in *tracepb.Span, resource []attribute, lib *commonpb.InstrumentationScope, schema string) span {
	trace := hex.EncodeToString(in.GetTraceId())
	out := span{
		Name: in.GetName(), SpanContext: newContext(trace, hex.EncodeToString(in.GetSpanId())), Parent: noSpan,
		SpanKind:  int32(in.GetKind()),
		StartTime: time.Unix(0, int64(in.GetStartTimeUnixNano())).UTC(), EndTime: time.Unix(0, int64(in.GetEndTimeUnixNano())).UTC(),
		Attributes: attributes(in.GetAttributes()), Resource: resource,
		DroppedAttributes: in.GetDroppedAttributesCount(), DroppedEvents: in.GetDroppedEventsCount(), DroppedLinks: in.GetDroppedLinksCount(),
		Status: spanStatus{Code: "Unset", Description: in.GetStatus().GetMessage()},
		Scope:  scope{Name: lib.GetName(), Version: lib.GetVersion(), SchemaURL: schema},
	}
	out.SpanContext.TraceState = in.GetTraceState()
	if p := in.GetParentSpanId(); len(p) == 8 {
		out.Parent = newContext(trace, hex.EncodeToString(p))
	}
	switch in.GetStatus().GetCode() {
	case tracepb.Status_STATUS_CODE_OK:
		out.Status.Code = "Ok"
	case tracepb.Status_STATUS_CODE_ERROR:
		out.Status.Code = "Error"
	case tracepb.Status_STATUS_CODE_UNSET:
	}
	for _, e := range in.GetEvents() {
		out.Events = append(out.Events, spanEvent{
			e.GetName(), attributes(e.GetAttributes()), e.GetDroppedAttributesCount(), time.Unix(0, int64(e.GetTimeUnixNano())).UTC(),
		})
	}
	for _, l := range in.GetLinks() {
		out.Links = append(out.Links, spanLink{
			newContext(hex.EncodeToString(l.GetTraceId()), hex.EncodeToString(l.GetSpanId())), attributes(l.GetAttributes()),
			l.GetDroppedAttributesCount(),
		})
	}
	return out
}

func attributes(in []*commonpb.KeyValue) []attribute {
	var out []attribute
	for _, kv := range in {
		if v, ok := value(kv.GetValue()); ok {
			out = append(out, attribute{kv.GetKey(), v})
		}
	}
	return out
}

// value returns a value; false for one that a span of BuildKit's cannot have.
func value(in *commonpb.AnyValue) (attributeValue, bool) {
	switch v := in.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return attributeValue{"STRING", v.StringValue}, true
	case *commonpb.AnyValue_BoolValue:
		return attributeValue{"BOOL", v.BoolValue}, true
	case *commonpb.AnyValue_IntValue:
		return attributeValue{"INT64", v.IntValue}, true
	case *commonpb.AnyValue_DoubleValue:
		// JSON has no others.
		return attributeValue{"FLOAT64", v.DoubleValue}, !math.IsNaN(v.DoubleValue) && !math.IsInf(v.DoubleValue, 0)
	case *commonpb.AnyValue_ArrayValue:
		return slice(v.ArrayValue.GetValues())
	}
	return attributeValue{}, false
}

// sliceOf ends the name of the type of a list.
const sliceOf = "SLICE"

// slice returns a list, whose values have to be of one type, and no lists.
func slice(in []*commonpb.AnyValue) (attributeValue, bool) {
	var out attributeValue
	var values []any
	for _, item := range in {
		v, ok := value(item)
		if !ok || strings.HasSuffix(v.Type, sliceOf) || out.Type != "" && out.Type != v.Type+sliceOf {
			return attributeValue{}, false
		}
		out.Type = v.Type + sliceOf
		values = append(values, v.Value)
	}
	out.Value = values
	return out, out.Type != ""
}

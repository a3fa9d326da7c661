package web

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// schemas turns Go types into JSON schemas (draft 2020-12, which OpenAPI 3.1
// uses), in the way of encoding/json. Named structs become components.
type schemas struct {
	components map[string]any
}

var (
	timeType = reflect.TypeFor[time.Time]()
	textType = reflect.TypeFor[encoding.TextMarshaler]()
)

// of returns the schema of t.
func (s *schemas) of(t reflect.Type) map[string]any {
	switch {
	case t.Kind() == reflect.Pointer: // first: it has the methods of what it points to
		return nullable(s.of(t.Elem()))
	case t == timeType:
		return map[string]any{"type": "string", "format": "date-time"}
	case t.Implements(textType):
		return map[string]any{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return map[string]any{"type": "string", "contentEncoding": "base64"}
		}
		return map[string]any{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		return s.named(t)
	}
	return map[string]any{} // an interface: any value
}

func nullable(schema map[string]any) map[string]any {
	if kind, ok := schema["type"].(string); ok {
		schema["type"] = []string{kind, "null"}
		return schema
	}
	return map[string]any{"anyOf": []any{schema, map[string]any{"type": "null"}}}
}

// named returns a reference to t's component, and makes it.
func (s *schemas) named(t reflect.Type) map[string]any {
	name := strings.ToUpper(t.Name()[:1]) + t.Name()[1:]
	ref := map[string]any{"$ref": "#/components/schemas/" + name}
	if _, ok := s.components[name]; ok {
		return ref
	}
	properties := map[string]any{}
	component := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	s.components[name] = component // before its fields: they may refer to it
	required := []string{}
	s.fields(t, properties, &required, false)
	if len(required) > 0 {
		component["required"] = required
	}
	return ref
}

// fields adds the fields of t, and those of the structs that are embedded in it.
func (s *schemas) fields(t reflect.Type, properties map[string]any, required *[]string, optional bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		if f.Anonymous && name == "" {
			embedded, pointer := f.Type, f.Type.Kind() == reflect.Pointer
			if pointer {
				embedded = embedded.Elem()
			}
			s.fields(embedded, properties, required, optional || pointer)
			continue
		}
		if name == "" {
			name = f.Name
		}
		schema := s.of(f.Type)
		omitted := strings.Contains(rest, "omit")
		if omitted && f.Type.Kind() == reflect.Pointer {
			schema = s.of(f.Type.Elem()) // left out instead of null
		}
		if words, ok := enums[t.Name()+"."+f.Name]; ok {
			schema["enum"] = words
		}
		properties[name] = schema
		if !optional && !omitted {
			*required = append(*required, name)
		}
	}
}

// enums are the words that a field of text may hold.
var enums = map[string][]string{
	"Health.Status": {string(Online), string(Degraded), string(Rebuilding), string(Stuck), string(ReadOnly), string(Unknown)},
	"Trouble.Kind":  {"read_only", "stuck", "poisoned", "damaged", "unknown", "second_copy"},
	"Event.Kind":    {kindPoisoned, kindReset, kindDamaged, kindSalvaged},
	"Drill.Cause":   drillCauses,
	"DAVLock.Depth": {"0", "infinity"},
	"DAVLock.Scope": {"exclusive", "shared"},
	"Holder.Mode":   {"write", "read"},
}

// encode returns v as indented JSON, for documents made at the start.
func encode(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // the types are the program's own
	}
	return append(b, '\n')
}

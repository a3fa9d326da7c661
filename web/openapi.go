package web

import (
	"reflect"
	"regexp"
	"strconv"
	"strings"
)

// describeAPI returns the OpenAPI 3.1 document of a table of operations.
func describeAPI(table []operation, version string) []byte {
	s := &schemas{components: map[string]any{}}
	paths := map[string]map[string]any{}
	for _, op := range table {
		if paths[op.path] == nil {
			paths[op.path] = map[string]any{}
		}
		paths[op.path][strings.ToLower(op.method)] = describe(s, op)
	}
	s.of(reflect.TypeFor[problem]())
	return encode(map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title": "EngramFS admin API", "version": version,
			"description": "What is null is unknown. Errors are application/problem+json (RFC 9457) with a stable code.",
		},
		"paths": paths,
		"components": map[string]any{
			"schemas": s.components,
			"securitySchemes": map[string]any{
				"basic":   map[string]any{"type": "http", "scheme": "basic"},
				"token":   map[string]any{"type": "http", "scheme": "bearer"},
				"session": map[string]any{"type": "apiKey", "in": "cookie", "name": "engramfs", "description": "From the login of the page; __Host-engramfs over TLS."},
			},
		},
	})
}

func describe(s *schemas, op operation) map[string]any {
	media := op.media
	if media == "" {
		media = "application/json"
	}
	body := func(t reflect.Type) map[string]any {
		return map[string]any{media: map[string]any{"schema": s.of(t)}}
	}
	responses := map[string]any{
		"200": map[string]any{"description": "OK", "content": body(op.out)},
		"default": map[string]any{"description": "Error", "content": map[string]any{
			"application/problem+json": map[string]any{"schema": s.of(reflect.TypeFor[problem]())},
		}},
	}
	for _, status := range op.also {
		responses[strconv.Itoa(status)] = map[string]any{"description": "The same, and the server needs a restart", "content": body(op.out)}
	}
	d := map[string]any{
		"operationId": op.id, "tags": []string{op.tag}, "summary": op.summary, "responses": responses,
		"security": security(op.open),
	}
	if params := parameters(op); len(params) > 0 {
		d["parameters"] = params
	}
	if op.in != nil {
		d["requestBody"] = map[string]any{
			"required": !op.inOptional,
			"content":  map[string]any{"application/json": map[string]any{"schema": s.of(op.in)}},
		}
	}
	return d
}

// security lists the ways in; an empty one means none is needed.
func security(open bool) []any {
	ways := []any{map[string]any{"basic": []string{}}, map[string]any{"token": []string{}}, map[string]any{"session": []string{}}}
	if open {
		ways = append(ways, map[string]any{})
	}
	return ways
}

var pathVariable = regexp.MustCompile(`\{([a-z]+)\}`)

func parameters(op operation) []any {
	var list []any
	add := func(p param) {
		list = append(list, map[string]any{
			"in": p.in, "name": p.name, "required": p.required, "description": p.doc, "schema": map[string]any{"type": p.kind},
		})
	}
	for _, m := range pathVariable.FindAllStringSubmatch(op.path, -1) {
		add(param{in: "path", name: m[1], kind: "string", required: true, doc: "The " + m[1] + "."})
	}
	for _, p := range op.params {
		add(p)
	}
	return list
}

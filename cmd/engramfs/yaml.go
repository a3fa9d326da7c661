package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// BeforeResolve reads the configuration file, wherever its name comes from.
func (*configFlag) BeforeResolve(ctx *kong.Context) error {
	for _, f := range ctx.Flags() {
		if f.Name != "config" {
			continue
		}
		file, _ := ctx.FlagValue(f).(string)
		if file == "" {
			return nil
		}
		c, err := readConfig(file)
		if err != nil {
			return err
		}
		ctx.AddResolver(c)
	}
	return nil
}

// configFile is a parsed configuration file. It is the lowest of the sources:
// as kong asks resolvers after it has applied the environment, and takes their
// word over it, the file has nothing to say about a flag whose variable is set.
type configFile struct {
	name string
	keys map[string]configValue
}

// configValue is a string, or a []any of strings, and the line it stands in.
type configValue struct {
	value any
	line  int
}

var _ kong.Resolver = (*configFile)(nil)

// readConfig parses a file: one mapping from keys to scalars or lists of
// scalars. Errors name the file and the line.
func readConfig(name string) (*configFile, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c := &configFile{name: name, keys: map[string]configValue{}}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		if e := yaml.Error(nil); errors.As(err, &e) && e.GetToken() != nil {
			return nil, c.errorf(e.GetToken().Position.Line, "%s", e.GetMessage())
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for i, doc := range file.Docs {
		if i > 0 {
			return nil, c.errorf(doc.Start.Position.Line, "more than one document")
		}
		if err := c.readMapping(doc.Body); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *configFile) errorf(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", c.name, line, fmt.Sprintf(format, args...))
}

func (c *configFile) readMapping(body ast.Node) error {
	var pairs []*ast.MappingValueNode
	switch n := body.(type) {
	case nil, *ast.NullNode, *ast.CommentGroupNode:
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		return c.errorf(lineOf(body), "want KEY: VALUE lines")
	}
	for _, p := range pairs {
		key := p.Key.GetToken().Value
		v, err := c.readValue(p.Value)
		if err != nil {
			return err
		}
		if _, twice := c.keys[key]; twice {
			return c.errorf(lineOf(p.Key), "%s is set twice", key)
		}
		c.keys[key] = configValue{v, lineOf(p.Key)}
	}
	return nil
}

// readValue returns a string, a list of strings, or nil for an empty value,
// which leaves the default.
func (c *configFile) readValue(n ast.Node) (any, error) {
	switch n := n.(type) {
	case *ast.NullNode:
		return nil, nil
	case *ast.StringNode:
		return n.Value, nil
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, nil
	case *ast.SequenceNode:
		list := make([]any, 0, len(n.Values))
		for _, item := range n.Values {
			v, err := c.readValue(item)
			if err != nil {
				return nil, err
			}
			if _, ok := v.(string); !ok {
				return nil, c.errorf(lineOf(item), "want a list of plain values")
			}
			list = append(list, v)
		}
		return list, nil
	}
	return nil, c.errorf(lineOf(n), "want a plain value or a list")
}

func lineOf(n ast.Node) int { return n.GetToken().Position.Line }

// Validate refuses keys that are no flag of serve: a mistyped key must not be
// a setting that silently does nothing.
func (c *configFile) Validate(app *kong.Application) error {
	known := map[string]bool{}
	for _, cmd := range app.Children {
		if cmd.Name != "serve" {
			continue
		}
		for _, f := range cmd.Flags {
			known[f.Name] = f.Name != "config"
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.keys)) {
		if !known[key] {
			return c.errorf(c.keys[key].line, "unknown key %q", key)
		}
	}
	return nil
}

// Resolve implements kong.Resolver.
func (c *configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	v, ok := c.keys[flag.Name]
	if !ok || v.value == nil || slices.ContainsFunc(flag.Envs, isSet) {
		return nil, nil
	}
	probe := reflect.New(flag.Target.Type()).Elem()
	scan := kong.Scan().PushTyped(v.value, kong.FlagValueToken)
	if err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, probe); err != nil {
		return nil, c.errorf(v.line, "%s: %v", flag.Name, err)
	}
	text, _ := v.value.(string)
	if flag.Enum != "" && !slices.Contains(strings.Split(flag.Enum, ","), text) {
		return nil, c.errorf(v.line, "%s: want one of %s", flag.Name, flag.Enum)
	}
	return v.value, nil
}

func isSet(env string) bool {
	_, ok := os.LookupEnv(env)
	return ok
}

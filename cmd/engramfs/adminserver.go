package main

import (
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"runtime"
	"strings"

	"engramfs/internal/auth"
	"engramfs/internal/tracing"
	"engramfs/store"
	"engramfs/web"
)

// Files of the admin surface in the data folder.
const (
	tokenFile = "admin-token" // a secret for programs that use the admin API
	auditFile = "audit.log"   // what administrators did
)

// openAudit opens the log of what is done to the server, by administrators and
// by itself.
func (s *server) openAudit() (err error) {
	s.audit, err = web.OpenAudit(s.data.path(auditFile))
	return err
}

// auditReset notes a reset that nobody has asked for before it is made, and its
// result.
func (s *server) auditReset(lock string, gen uint64) (func(string), error) {
	end, err := s.audit.Begin("lock.reset", lock, map[string]any{"gen": gen, "source": "auto"})
	if err != nil {
		return nil, err
	}
	return func(result string) {
		if err := end(result); err != nil {
			s.log.Error("audit log", "err", err)
		}
	}, nil
}

// openAdmin makes the handler of the admin listener.
func (s *server) openAdmin() (err error) {
	if s.admin == nil {
		return nil
	}
	o := web.Options{
		Store: s.store, Logger: s.log, Build: web.Build{Version: programVersion(), Go: runtime.Version()},
		Hung:    func() bool { return s.store.Registry().Health().HardStuck },
		Metrics: s.monitor.metrics.Handler(), MetricsPublic: s.cfg.MetricsPublic, DegradedNotReady: !s.cfg.ReadyWhenDegraded,
		Traffic: s.traffic, Engine: func() web.EngineStats { return engineStats(s.store) }, Notes: s.notes,
		Drills: s.cfg.EnableDrills, Points: store.FaultPoints(), Principal: auth.Principal, Failed: s.tracer.Failed(),
		Audit: s.audit, Listeners: s.listeners, Handles: s.handles, HostAllowed: auth.HostCheck(s.hosts()),
		Config: func() []web.Setting { return settings(reflect.ValueOf(s.cfg).Elem()) },
	}
	if s.mount != nil {
		o.Mounts = s.mounts
	}
	if s.metadata.copy != nil {
		o.Copy = s.metadataCopy
	}
	if s.auth != nil {
		o.Require, o.Optional = s.auth.Require, s.auth.Optional
		if o.Token, err = web.LoadToken(s.data.path(tokenFile)); err != nil {
			return err
		}
	}
	s.web = web.New(o)
	return nil
}

func (s *server) adminHandler() http.Handler { return s.tracer.HTTP(tracing.Admin, s.web) }

func (s *server) listeners() []web.Listener {
	var list []web.Listener
	tls, auth := s.cert != nil, s.auth != nil
	if s.dav != nil {
		list = append(list, web.Listener{Door: "webdav", URL: s.davURL(), TLS: tls, Auth: auth})
	}
	return append(list, web.Listener{Door: "admin", URL: s.adminURL(), TLS: tls, Auth: auth})
}

func (s *server) mounts() []web.Mount {
	m := web.Mount{Point: s.mount.Point(), State: "mounted"}
	select {
	case <-s.mount.Done():
		m.State = "ended"
		return []web.Mount{m}
	default:
	}
	info := s.mount.Info()
	m.Detail = fmt.Sprintf("%d open files", info.OpenFiles)
	if info.Native {
		m.Detail += ", passthrough"
	}
	return []web.Mount{m}
}

var wordStart = regexp.MustCompile(`([a-z])([A-Z])`)

// settings returns the flags of serve with their values, under the names that
// kong gives them. Users have passwords, so only whether there are any is told.
func settings(cfg reflect.Value) []web.Setting {
	var list []web.Setting
	for f, v := range cfg.Fields() {
		switch {
		case f.Anonymous:
			list = append(list, settings(v)...)
		case f.IsExported():
			name := f.Tag.Get("name")
			if name == "" {
				name = strings.ToLower(wordStart.ReplaceAllString(f.Name, "$1-$2"))
			}
			value := fmt.Sprint(v)
			if f.Type.Kind() == reflect.Slice {
				value = strings.Trim(value, "[]")
			}
			list = append(list, web.Setting{Name: name, Value: value, Secret: f.Name == "User" || f.Name == "AlertWebhook"})
		}
	}
	return list
}

package web

import (
	"net/http"
	"time"
)

// Mount is a mount point that this process serves.
type Mount struct {
	Point string `json:"point"`
	State string `json:"state"` // mounted or failed
	// Detail says more for people, such as whether passthrough is on.
	Detail string `json:"detail,omitempty"`
}

// Listener is an address that this process listens on.
type Listener struct {
	Door string `json:"door"` // webdav or admin
	URL  string `json:"url"`
	TLS  bool   `json:"tls"`
	Auth bool   `json:"auth"` // asks for credentials
}

// Setting is one key of the configuration in force. The value of a secret is
// never shown, only whether it is set.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Secret bool   `json:"secret,omitempty"`
}

// Answers about the process.
type (
	// MountList is the answer of GET /api/v1/mounts.
	MountList struct {
		Mounts []Mount `json:"mounts"`
	}
	// ListenerList is the answer of GET /api/v1/listeners.
	ListenerList struct {
		Listeners []Listener `json:"listeners"`
	}
	// SettingList is the answer of GET /api/v1/config.
	SettingList struct {
		Settings []Setting `json:"settings"`
	}
	// BuildInfo is the answer of GET /api/v1/build.
	BuildInfo struct {
		Build
		Started time.Time `json:"started"`
	}
)

func (a *Server) systemOperations() []operation {
	return []operation{
		get("/api/v1/mounts", "listMounts", "system", "Mount points of this process", a.getMounts),
		get("/api/v1/listeners", "listListeners", "system", "Addresses that this process listens on", a.getListeners),
		get("/api/v1/config", "listConfig", "system", "The configuration in force, without secrets", a.getConfig),
		get("/api/v1/build", "getBuild", "system", "What is running, and since when", a.getBuild),
	}
}

func (a *Server) getMounts(http.ResponseWriter, *http.Request) (MountList, error) {
	list, err := a.mounts()
	return MountList{append([]Mount{}, list...)}, err
}

func (a *Server) mounts() ([]Mount, error) {
	if a.o.Mounts == nil {
		return nil, errNotHere
	}
	return a.probes.mounts.ask(func() ([]Mount, error) { return a.o.Mounts(), nil })
}

func (a *Server) getListeners(http.ResponseWriter, *http.Request) (ListenerList, error) {
	if a.o.Listeners == nil {
		return ListenerList{}, errNotHere
	}
	return ListenerList{append([]Listener{}, a.o.Listeners()...)}, nil
}

func (a *Server) getConfig(http.ResponseWriter, *http.Request) (SettingList, error) {
	if a.o.Config == nil {
		return SettingList{}, errNotHere
	}
	return SettingList{a.settings()}, nil
}

// settings returns the configuration with its secrets taken out.
func (a *Server) settings() []Setting {
	list := []Setting{}
	for _, s := range a.o.Config() {
		if s.Secret {
			s.Value = map[bool]string{true: "set", false: "not set"}[s.Value != ""]
		}
		list = append(list, s)
	}
	return list
}

func (a *Server) getBuild(http.ResponseWriter, *http.Request) (BuildInfo, error) {
	return BuildInfo{a.o.Build, a.started.UTC()}, nil
}

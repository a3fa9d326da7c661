package auth

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// HostCheck returns a function that says whether a request with this Host header
// may be answered: that is an IP address, localhost or one of names (without port,
// any case).
//
// This defeats DNS rebinding, by which a page from the internet makes its own
// host name point to a loopback address, and then talks to a server there that
// trusts everyone on the machine. A page cannot have an IP address or
// localhost as its host unless that server itself sent it.
func HostCheck(names []string) func(host string) bool {
	allowed := map[string]bool{"localhost": true}
	for _, n := range names {
		allowed[strings.ToLower(strings.TrimSuffix(n, "."))] = true
	}
	return func(host string) bool { return hostAllowed(allowed, host) }
}

// Hosts lets a request reach next only if its Host header passes the HostCheck of
// names; others are answered 421.
func Hosts(names []string, next http.Handler) http.Handler {
	allowed := HostCheck(names)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowed(r.Host) {
			http.Error(w, "this server does not answer to that host name", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func hostAllowed(allowed map[string]bool, host string) bool {
	if _, err := netip.ParseAddrPort(host); err == nil {
		return true
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return allowed[host] || strings.HasSuffix(host, ".localhost")
}

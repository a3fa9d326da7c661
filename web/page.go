package web

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets
var assetFiles embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"ago": ago, "clock": clock, "iso": iso, "since": lasted, "esc": url.PathEscape,
	"tone": toneOf, "word": wordOf, "eventTone": eventTone, "eventTarget": eventTarget, "eventWord": eventWord, "eventHow": eventHow, "cause": causeWord,
	"took":   func(d time.Duration) string { return seconds(d.Seconds()) },
	"plural": func(n int, noun string) string { return plural(int64(n), noun) },
	"deref":  func(t *time.Time) time.Time { return *t },
}).ParseFS(templateFiles, "templates/*.html"))

// frame is what every page has around its content.
type frame struct {
	Title    string
	Here     string // the entry of the navigation
	State    Status
	Live     bool // follows the server with a script
	Admitted bool
	User     string
	Session  bool // the user can log out
	Build    Build
	Now      time.Time
}

func (a *Server) frame(r *http.Request, title, here string) frame {
	who := whoIs(r)
	return frame{
		Title: title + " - EngramFS", Here: here, State: Unknown, Admitted: who.via != "",
		User: who.name, Session: who.via == "session", Build: a.o.Build, Now: a.now().UTC(),
	}
}

func (a *Server) pageRoutes(r chi.Router) {
	r.Get("/assets/{file}", a.handle(a.getAsset))
	r.Get("/login", a.handle(a.getLogin))
	r.Post("/login", a.handle(a.postLogin))
	for path, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"/": a.pageHealth, "/events": a.pageEvents, "/events/{seq}": a.pageEvent, "/locks/{name}": a.pageLock,
	} {
		r.Get(path, a.page(h))
	}
	for path, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"/logout":                a.pageLogout,
		"/locks/{name}/preview":  a.pagePreview,
		"/locks/{name}/reset":    a.pageReset,
		"/jobs/{name}/{verb}":    a.pageJob,
		"/davlocks/{id}/break":   a.pageBreak,
		"/damaged/{ino}/salvage": a.pageSalvage,
		"/drills":                a.pageDrill,
	} {
		r.Post(path, a.page(h))
	}
}

// page serves a page to those who may see it: others are sent to the login. Its
// errors are pages, too.
func (a *Server) page(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := a.identify(r)
		r = r.WithContext(context.WithValue(r.Context(), identityKey{}, id))
		switch {
		case err != nil:
		case id.via == "" && r.Method != http.MethodPost:
			http.Redirect(w, r, "/login?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
			return
		case id.via == "":
			err = errNoLogin
		default:
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			err = h(w, r)
		}
		if err != nil {
			a.pageError(w, r, err)
		}
	}
}

// render answers with a page. It is made as a whole before its first byte is sent.
func (a *Server) render(w http.ResponseWriter, status int, name string, data any) error {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, data); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = b.WriteTo(w) // an error means that the client has gone
	return nil
}

// errorPage is the page of an error.
type errorPage struct {
	frame
	Heading, Text, Code, Lock string
}

func (a *Server) pageError(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	a.noteFailure(r, p.Status, err)
	errorHeaders(w, r, p, err)
	if p.Status == http.StatusPreconditionFailed {
		p.Status = http.StatusConflict // a form has no If-Match that could fail
	}
	page := errorPage{frame: a.frame(r, p.Title, ""), Heading: p.Title, Text: sentence(p.Detail), Code: p.Code}
	switch {
	case p.Status == http.StatusInternalServerError:
		page.Heading = "Something went wrong"
	case r.Method == http.MethodPost:
		page.Heading = "Nothing was done"
	}
	if p.Status == http.StatusConflict {
		page.Lock = p.Lock
	}
	if err := a.render(w, p.Status, "error", page); err != nil {
		a.writeError(w, r, err)
	}
}

// getAsset serves the files that pages load. They are no secret.
func (a *Server) getAsset(w http.ResponseWriter, r *http.Request) error {
	name := chi.URLParam(r, "file")
	if tone, ok := strings.CutPrefix(name, "icon-"); ok {
		return writeIcon(w, strings.TrimSuffix(tone, ".svg"))
	}
	b, err := fs.ReadFile(assetFiles, "assets/"+name)
	if err != nil {
		return errNoRoute
	}
	types := map[string]string{"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
	w.Header().Set("Content-Type", types[name[strings.LastIndexByte(name, '.')+1:]])
	_, _ = w.Write(b) // an error means that the client has gone
	return nil
}

// writeIcon answers with the icon of the browser's tab, in the colour of a tone.
func writeIcon(w http.ResponseWriter, tone string) error {
	colours := map[string]string{"ok": "#14864b", "warn": "#c77700", "bad": "#c21f2f", "work": "#1f6fc4", "unknown": "#6b7885"}
	colour, ok := colours[tone]
	if !ok {
		return errNoRoute
	}
	w.Header().Set("Content-Type", "image/svg+xml")
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="%s"/></svg>`, colour)
	return nil
}

// loginPage is the page that asks for a password.
type loginPage struct {
	frame
	Next, Text string
}

func (a *Server) getLogin(w http.ResponseWriter, r *http.Request) error {
	if !a.private {
		return redirect(w, r, "/")
	}
	return a.render(w, http.StatusOK, "login", loginPage{frame: a.frame(r, "Log in", ""), Next: localPath(r.URL.Query().Get("next"))})
}

// postLogin begins a session for whom Options.Require admits.
func (a *Server) postLogin(w http.ResponseWriter, r *http.Request) error {
	if !a.private {
		return redirect(w, r, "/")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	next := localPath(r.PostFormValue("next"))
	generation := a.sessions.current() // before the password is looked at
	try := r.Clone(r.Context())
	try.SetBasicAuth(r.PostFormValue("user"), r.PostFormValue("password"))
	name, err := a.verify(try)
	if err == nil {
		who := identity{name: name, via: "password"}
		err = a.do(r.WithContext(context.WithValue(r.Context(), identityKey{}, who)), action{name: "login"}, func(*action) error {
			cookie, ok := a.sessions.begin(name, generation)
			if !ok {
				return errNoLogin
			}
			setCookie(w, r, cookie)
			return nil
		})
	}
	switch {
	case err == nil:
		return redirect(w, r, next)
	case errors.Is(err, errAudit):
		return err
	}
	p := problemOf(err)
	errorHeaders(w, r, p, err)
	text := "The user or the password is wrong."
	if wait := (*waitError)(nil); errors.As(err, &wait) {
		text = "Too many wrong passwords. Try again in " + wait.retryAfter + " s."
	}
	return a.render(w, p.Status, "login", loginPage{frame: a.frame(r, "Log in", ""), Next: next, Text: text})
}

// pageLogout ends all sessions of the user: one that was left open elsewhere, too.
func (a *Server) pageLogout(w http.ResponseWriter, r *http.Request) error {
	err := a.do(r, action{name: "logout"}, func(*action) error {
		a.sessions.endOf(whoIs(r).name)
		setCookie(w, r, "")
		return nil
	})
	if err != nil {
		return err
	}
	return redirect(w, r, "/login")
}

// localPath returns next if it is a path of this server, and else the front page:
// a login must not lead elsewhere.
func localPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") {
		return "/"
	}
	return next
}

func redirect(w http.ResponseWriter, r *http.Request, path string) error {
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}

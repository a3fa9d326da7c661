package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// site is where one peer runs: its own folder with the data root inside, and
// the address it has to serve at.
type site struct {
	Dir  string // generated configuration, logs, temporary files
	Root string // what is served
	Host string // "127.0.0.1"
	Port int
	// Admin is a second free address for servers with an admin listener.
	Admin string
}

func (s site) addr() string         { return s.Host + ":" + strconv.Itoa(s.Port) }
func (s site) file(n string) string { return filepath.Join(s.Dir, n) }

// peer is a WebDAV server that the benchmark knows how to start.
type peer struct {
	name string
	// program is looked up in PATH; empty for the two that are built here.
	program string
	// command writes the configuration and returns the command line.
	command func(s site, program string) ([]string, error)
	// user owns the data root where the server drops root's rights.
	user string
}

// errAbsent is returned by start for a peer whose program is not installed.
var errAbsent = errors.New("not installed")

// peers in the order of the table. Each is set up as its documentation says
// for a file server, without access logs, one event loop or worker per core
// where it offers that, and no limit on the requests of a connection.
func allPeers(self, engramfs string) []peer {
	return []peer{
		{name: "engramfs", command: func(s site, _ string) ([]string, error) {
			if engramfs == "" {
				return nil, errAbsent
			}
			return []string{engramfs, "serve", "--data", s.Root, "--listen", s.addr(),
				"--admin", s.Admin, "--anonymous", "--log-level", "warn"}, nil
		}},
		{name: "nginx", program: "nginx", command: nginx},
		{name: "apache", program: "apache2", command: apache, user: "www-data"},
		{name: "lighttpd", program: "lighttpd", command: lighttpd},
		{name: "rclone", program: "rclone", command: func(s site, program string) ([]string, error) {
			return []string{program, "serve", "webdav", s.Root, "--addr", s.addr(),
				"--vfs-cache-mode", "off", "--config", s.file("rclone.conf"), "--log-level", "ERROR"}, nil
		}},
		{name: "xnet", command: func(s site, _ string) ([]string, error) {
			return []string{self, "xnet", "--data", s.Root, "--listen", s.addr()}, nil
		}},
	}
}

// lookPath finds a program also where Debian keeps servers, which is not in
// every user's PATH.
func lookPath(program string) (string, error) {
	if p, err := exec.LookPath(program); err == nil {
		return p, nil
	}
	p, err := exec.LookPath(filepath.Join("/usr/sbin", program))
	if err != nil {
		return "", errAbsent
	}
	return p, nil
}

func nginx(s site, program string) ([]string, error) {
	const module = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so"
	load := ""
	if _, err := os.Stat(module); err == nil {
		load = "load_module " + module + ";"
	}
	as := ""
	if os.Geteuid() == 0 {
		as = "user root;"
	}
	conf := expand(s, load+"\n"+as+`
worker_processes auto;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/log warn;
events { worker_connections 1024; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  server {
    listen {addr};
    root {root};
    location / {
      dav_methods PUT DELETE MKCOL COPY MOVE;
      dav_ext_methods PROPFIND OPTIONS;
    }
  }
}
`)
	return []string{program, "-p", s.Dir, "-c", s.file("conf"), "-e", s.file("log")}, os.WriteFile(s.file("conf"), []byte(conf), 0o644)
}

func apache(s site, program string) ([]string, error) {
	var b strings.Builder
	for _, m := range []string{"mpm_event", "authz_core", "mime", "dav", "dav_fs"} {
		fmt.Fprintf(&b, "LoadModule %s_module /usr/lib/apache2/modules/mod_%s.so\n", m, m)
	}
	if os.Geteuid() == 0 {
		b.WriteString("User www-data\nGroup www-data\n")
	}
	b.WriteString(expand(s, `
ServerName {host}
Listen {addr}
PidFile {dir}/pid
ErrorLog {dir}/log
DefaultRuntimeDir {dir}
LogLevel error
TypesConfig /dev/null
DocumentRoot {root}
EnableSendfile On
KeepAlive On
MaxKeepAliveRequests 0
LimitRequestBody 0
DavLockDB {dir}/locks
<Directory {root}>
  Dav On
  DavMinTimeout 0
  Require all granted
</Directory>
`))
	return []string{program, "-f", s.file("conf"), "-DFOREGROUND"}, os.WriteFile(s.file("conf"), []byte(b.String()), 0o644)
}

func lighttpd(s site, program string) ([]string, error) {
	conf := expand(s, `
server.modules = ("mod_webdav")
server.bind = "{host}"
server.port = {port}
server.document-root = "{root}"
server.errorlog = "{dir}/log"
server.upload-dirs = ("{dir}")
server.max-request-size = 0
server.max-keep-alive-requests = 1000000000
webdav.activate = "enable"
webdav.is-readonly = "disable"
webdav.sqlite-db-name = "{dir}/props.db"
`)
	return []string{program, "-D", "-f", s.file("conf")}, os.WriteFile(s.file("conf"), []byte(conf), 0o644)
}

// expand fills the places of a configuration template.
func expand(s site, template string) string {
	return strings.NewReplacer("{dir}", s.Dir, "{root}", s.Root, "{host}", s.Host,
		"{port}", strconv.Itoa(s.Port), "{addr}", s.addr()).Replace(template)
}

// chown gives the site to the user that the server will run as.
func chown(s site, name string) error {
	if name == "" || os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return errors.Join(os.Chown(s.Dir, uid, gid), os.Chown(s.Root, uid, gid))
}

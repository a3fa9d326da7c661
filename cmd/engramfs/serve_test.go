package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"engramfs/internal/logbuf"
)

// asMain makes the test binary behave as the program itself.
const asMain = "RUN_AS_ENGRAMFS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	time.Local = time.FixedZone("far away", 9*60*60) // what is printed must not depend on it
	goleak.VerifyTestMain(m)
}

// running is a server in this process.
type running struct {
	t              *testing.T
	url, admin     string
	stdout, stderr *logbuf.Buffer
	stop           func() int // ends the server and returns its exit code
}

var readyLine = regexp.MustCompile(`engramfs: ready(?: url=(\S+))?(?: admin=(\S+))?(?: mount=\S+)?\n`)

// start runs serve on free ports until the test ends.
func start(t *testing.T, data string, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &running{t: t, stdout: &logbuf.Buffer{}, stderr: &logbuf.Buffer{}}
	args = append([]string{"serve", "--data", data, "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--reserve=none"}, args...)
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, args, s.stdout, s.stderr) }()
	s.stop = sync.OnceValue(func() int {
		cancel()
		http.DefaultClient.CloseIdleConnections()
		return <-ended
	})
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("stdout:\n%s\nstderr:\n%s", s.stdout, s.stderr)
		}
	})
	s.url, s.admin = waitReady(t, s.stdout, s.stderr)
	return s
}

func waitReady(t *testing.T, stdout, stderr *logbuf.Buffer) (url, admin string) {
	t.Helper()
	for range 1000 {
		if m := readyLine.FindStringSubmatch(stdout.String()); m != nil {
			return m[1], m[2]
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no readiness line\n%s%s", stdout, stderr)
	return "", ""
}

// do sends a request and returns the answer with its body read.
func do(t *testing.T, c *http.Client, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if user, password, ok := strings.Cut(req.Header.Get("X-Test-User"), ":"); ok {
		req.SetBasicAuth(user, password)
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	answer, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(text)
}

func (s *running) want(status int, method, url, body string, header ...string) string {
	s.t.Helper()
	answer, text := do(s.t, http.DefaultClient, method, url, body, header...)
	if answer.StatusCode != status {
		s.t.Fatalf("%s %s = %s, want %d\n%s", method, url, answer.Status, status, text)
	}
	return text
}

func TestServeKeepsFilesAcrossRestart(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := start(t, data, "--anonymous")
	s.want(201, "PUT", s.url+"a.txt", "hello")
	s.want(201, "MKCOL", s.url+"d", "")
	s.want(201, "PUT", s.url+"d/big", strings.Repeat("0123456789", 10_000))
	if code := s.stop(); code != exitClean {
		t.Fatalf("exit code %d", code)
	}
	s = start(t, data, "--anonymous", "--prefix=/dav/files")
	if !strings.HasSuffix(s.url, "/dav/files/") {
		t.Errorf("url = %s", s.url)
	}
	if got := s.want(200, "GET", s.url+"a.txt", ""); got != "hello" {
		t.Errorf("a.txt = %q", got)
	}
	if got := s.want(200, "GET", s.url+"d/big", ""); len(got) != 100_000 {
		t.Errorf("d/big has %d bytes", len(got))
	}
}

func TestFirstStartShowsThePasswordOnce(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := start(t, data)
	m := regexp.MustCompile(`(?s)url +(\S+)\n +user +(\S+)\n +password +(\S+)\n`).FindStringSubmatch(s.stdout.String())
	if m == nil {
		t.Fatalf("no password in %q", s.stdout)
	}
	if m[1] != s.url {
		t.Errorf("shown url %s, served url %s", m[1], s.url)
	}
	password := m[3]
	login := m[2] + ":" + password
	s.want(401, "PUT", s.url+"a", "x")
	s.want(401, "PUT", s.url+"a", "x", "X-Test-User", m[2]+":wrong")
	s.want(201, "PUT", s.url+"a", "x", "X-Test-User", login)
	s.want(401, "GET", s.admin+"api/v1/locks", "")
	s.want(200, "GET", s.admin+"api/v1/locks", "", "X-Test-User", login)
	s.want(200, "OPTIONS", s.url+"a", "")
	s.stop()

	text, err := os.ReadFile(filepath.Join(data, "users"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "admin:$argon2id$") || strings.Contains(string(text), password) {
		t.Errorf("users file:\n%s", text)
	}
	if fi, _ := os.Stat(filepath.Join(data, "users")); fi.Mode().Perm() != 0o600 {
		t.Errorf("users file has mode %v", fi.Mode())
	}
	if strings.Contains(s.stderr.String(), password) {
		t.Error("the password is in the log")
	}

	s = start(t, data)
	if strings.Contains(s.stdout.String(), "password") {
		t.Errorf("second start: %s", s.stdout)
	}
	s.want(200, "GET", s.url+"a", "", "X-Test-User", login)
}

func TestUsersOfTheCommandLine(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := start(t, data, "--user=ann:secret", "--user=bob:p,q:r")
	s.want(201, "PUT", s.url+"a", "x", "X-Test-User", "ann:secret")
	s.want(200, "GET", s.url+"a", "", "X-Test-User", "bob:p,q:r")
	if _, err := os.Stat(filepath.Join(data, "users")); !os.IsNotExist(err) {
		t.Errorf("users file: %v, want none", err)
	}
	if strings.Contains(s.stdout.String(), "password") {
		t.Errorf("a first user was made: %s", s.stdout)
	}
}

func TestHealthWithoutCredentialsSaysOneWord(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "data"), "--user=ann:secret")
	var open, full map[string]any
	if err := json.Unmarshal([]byte(s.want(200, "GET", s.admin+"api/v1/health", "")), &open); err != nil {
		t.Fatal(err)
	}
	if len(open) != 1 || open["status"] != "online" {
		t.Errorf("without credentials: %v", open)
	}
	text := s.want(200, "GET", s.admin+"api/v1/health", "", "X-Test-User", "ann:secret")
	if err := json.Unmarshal([]byte(text), &full); err != nil || full["build"] == nil || full["locks"] == nil {
		t.Errorf("with credentials: %s", text)
	}
	s.want(401, "GET", s.admin+"api/v1/health", "", "X-Test-User", "ann:wrong")
}

func TestReloadReadsUsersAgain(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := start(t, data)
	put(t, filepath.Join(data, "users"), "zoe:$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQxMjM0$broken\n")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(s.stderr.String(), "users not reloaded") })
	d := &dataFolder{dir: data}
	_, password, err := d.makeFirstUser()
	if err != nil {
		t.Fatal(err)
	}
	s.want(401, "GET", s.url, "", "X-Test-User", firstUser+":"+password)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(s.stderr.String(), "users reloaded") })
	s.want(200, "GET", s.url, "", "X-Test-User", firstUser+":"+password)
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for range 500 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not happen within 5 s")
}

func TestSecondProcessIsRefused(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	start(t, data, "--anonymous")
	cmd := exec.Command(os.Args[0], "serve", "--data", data, "--anonymous", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0")
	cmd.Env = append(os.Environ(), asMain+"=1")
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != exitRun {
		t.Fatalf("exit code %d (%v)\n%s", cmd.ProcessState.ExitCode(), err, text)
	}
	want := fmt.Sprintf("engramfs: error: %s: data folder is in use by another process (pid %d)\nengramfs: hint: ", data, os.Getpid())
	if !strings.HasPrefix(string(text), want) {
		t.Errorf("message:\n%s\nwant:\n%s", text, want)
	}
}

func TestAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out, errs bytes.Buffer
	data := filepath.Join(t.TempDir(), "data")
	code := run(t.Context(), []string{"serve", "--data", data, "--listen", l.Addr().String(), "--admin=127.0.0.1:0"}, &out, &errs)
	if code != exitRun || !strings.Contains(errs.String(), "engramfs: hint: ") {
		t.Errorf("exit code %d\n%s", code, &errs)
	}
	if strings.Contains(out.String(), "password") {
		t.Error("a password was shown by a start that failed")
	}
}

// Without a second copy there is nothing to salvage the metadata from.
func TestCorruptEngineIsRefusedByName(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := start(t, data, "--anonymous", "--second-copy=none")
	s.want(201, "PUT", s.url+"a", "x")
	s.stop()
	manifests, err := filepath.Glob(filepath.Join(data, "meta", "MANIFEST-*"))
	if err != nil || len(manifests) == 0 {
		t.Fatalf("no manifest: %v", err)
	}
	for _, m := range manifests {
		put(t, m, "nonsense")
	}
	before := names(t, filepath.Join(data, "meta"))
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"serve", "--data", data, "--anonymous", "--second-copy=none", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"}, &out, &errs)
	if code != exitRun || !strings.Contains(errs.String(), filepath.Join(data, "meta")) || !strings.Contains(errs.String(), "restore") {
		t.Errorf("exit code %d\n%s", code, &errs)
	}
	if after := names(t, filepath.Join(data, "meta")); after != before {
		t.Errorf("files before %q, after %q", before, after)
	}
}

func TestSIGTERMDrainsAndExitsClean(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	var stdout, stderr logbuf.Buffer
	cmd := exec.Command(os.Args[0], "serve", "--data", data, "--anonymous", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--reserve=none")
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), asMain+"=1"), &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	url, _ := waitReady(t, &stdout, &stderr)

	// A PUT is under way when the signal comes, and ends well. Its body is asked for
	// once the server has begun with it.
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	defer client.CloseIdleConnections()
	body, feed := io.Pipe()
	req, err := http.NewRequest("PUT", url+"slow", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Expect", "100-continue")
	done := make(chan string, 1)
	go func() {
		answer, err := client.Do(req)
		if err != nil {
			done <- err.Error()
			return
		}
		answer.Body.Close()
		done <- answer.Status
	}()
	if _, err := feed.Write([]byte("half ")); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(stderr.String(), "draining") })
	if _, err := feed.Write([]byte("whole")); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	if got := <-done; got != "201 Created" {
		t.Errorf("the PUT under way = %s", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("exit: %v\n%s", err, &stderr)
	}
	s := start(t, data, "--anonymous")
	if got := s.want(200, "GET", s.url+"slow", ""); got != "half whole" {
		t.Errorf("slow = %q", got)
	}
}

func TestShutdownTimeoutCutsOffStuckRequests(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "data"), "--anonymous", "--shutdown-timeout=200ms")
	c, err := net.Dial("tcp", strings.Trim(strings.TrimPrefix(s.url, "http://"), "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
	time.Sleep(50 * time.Millisecond)
	begin := time.Now()
	if code := s.stop(); code != exitClean {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if !strings.Contains(s.stderr.String(), "requests were cut off") {
		t.Error("the log does not say that requests were cut off")
	}
}

func TestAnonymousServerAnswersToItsNamesOnly(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "data"), "--anonymous", "--allow-host=nas.lan")
	for _, base := range []string{s.url, s.admin + "api/v1/health"} {
		s.want(421, "GET", base, "", "Host", "evil.example")
		s.want(200, "GET", base, "", "Host", "nas.lan")
		s.want(200, "GET", base, "", "Host", "localhost:1")
	}
}

// The whole drill of the README, over real sockets.
func TestDrill(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "data"), "--anonymous", "--enable-drills")
	s.want(201, "PUT", s.url+"hello.txt", "hello")
	s.want(200, "POST", s.admin+"api/v1/drills", `{"path":"/hello.txt","cause":"panic"}`)
	s.want(503, "PUT", s.url+"hello.txt", "again")
	answer, text := do(t, http.DefaultClient, "GET", s.url+"hello.txt", "")
	if answer.StatusCode != 200 || text != "hello" || answer.Header.Get("EngramFS-Degraded") != "inode:2; gen=1" {
		t.Errorf("read: %s %q %v", answer.Status, text, answer.Header)
	}
	s.want(201, "PUT", s.url+"other.txt", "unharmed")
	if h := s.want(200, "GET", s.admin+"api/v1/health", ""); !strings.Contains(h, `"degraded"`) || !strings.Contains(h, "/hello.txt") {
		t.Errorf("health: %s", h)
	}
	reset := s.admin + "api/v1/locks/inode:2/reset"
	s.want(428, "POST", reset, "")
	s.want(412, "POST", reset, "", "If-Match", `"7"`)
	s.want(200, "POST", reset+"?dry_run=1", "", "If-Match", `"1"`)
	s.want(503, "PUT", s.url+"hello.txt", "again")
	s.want(200, "POST", reset, "", "If-Match", `"1"`)
	s.want(409, "POST", reset, "", "If-Match", `"1"`)
	s.want(204, "PUT", s.url+"hello.txt", "again")
	if h := s.want(200, "GET", s.admin+"api/v1/health", ""); !strings.Contains(h, `"online"`) {
		t.Errorf("health: %s", h)
	}
}

func TestDrillsAreOffByDefault(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "data"), "--anonymous")
	s.want(403, "POST", s.admin+"api/v1/drills", `{"path":"/","cause":"panic"}`)
	s.want(403, "GET", s.admin+"api/v1/drills", "")
}

// newCertificate writes a self-signed certificate for nas.lan and returns the
// names of its files.
func newCertificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "nas.lan"}, DNSNames: []string{"nas.lan"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	put(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	put(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	return certFile, keyFile
}

func TestTLSAndHTTP2(t *testing.T) {
	cert, key := newCertificate(t)
	s := start(t, filepath.Join(t.TempDir(), "data"), "--user=ann:secret", "--tls-cert", cert, "--tls-key", key,
		"--listen=0.0.0.0:0") // the last --listen counts
	if !strings.HasPrefix(s.url, "https://localhost:") {
		t.Fatalf("url = %s", s.url)
	}
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	big := strings.Repeat("x", 1<<20)
	answer, _ := do(t, client, "PUT", s.url+"a", big, "X-Test-User", "ann:secret")
	if answer.StatusCode != 201 || answer.ProtoMajor != 2 {
		t.Errorf("PUT = %s over %s", answer.Status, answer.Proto)
	}
	if answer, text := do(t, client, "GET", s.url+"a", "", "X-Test-User", "ann:secret"); text != big {
		t.Errorf("GET = %s, %d bytes", answer.Status, len(text))
	}

	var out, errs bytes.Buffer
	admin := strings.Trim(strings.TrimPrefix(s.admin, "https://"), "/")
	if code := run(t.Context(), []string{"healthcheck", "--admin", admin, "--tls-cert", cert}, &out, &errs); code != exitClean || out.String() != "online\n" {
		t.Errorf("healthcheck = %d %s%s", code, &out, &errs)
	}
	other, _ := newCertificate(t)
	if code := run(t.Context(), []string{"healthcheck", "--admin", admin, "--tls-cert", other}, &out, &errs); code != exitRun {
		t.Errorf("healthcheck with another certificate = %d, want %d", code, exitRun)
	}
}

func TestHealthcheck(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "data"), "--user=ann:secret")
	t.Setenv("ENGRAMFS_ADMIN", strings.Trim(strings.TrimPrefix(s.admin, "http://"), "/"))
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"healthcheck"}, &out, &errs); code != exitClean || out.String() != "online\n" {
		t.Errorf("healthcheck = %d %s%s", code, &out, &errs)
	}
	s.stop()
	if code := run(t.Context(), []string{"healthcheck"}, &out, &errs); code != exitRun {
		t.Errorf("healthcheck of a stopped server = %d, want %d", code, exitRun)
	}
}

// The README's drill is pasted into a shell, on other ports and a second time on
// the same store, where the inode has another number.
func TestReadmeDrill(t *testing.T) {
	for _, program := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("REQUIRE_ALL") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)<!-- drill:[^\n]*\n```sh\n(.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatal("the README has no drill")
	}
	s := start(t, filepath.Join(t.TempDir(), "data"), "--anonymous", "--enable-drills")
	script := strings.NewReplacer("http://127.0.0.1:8080/", s.url, "http://127.0.0.1:8081/", s.admin).Replace(string(m[1]))
	for range 2 {
		out, err := exec.Command("bash", "-c", script).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		// What the comments of the block announce, in that order; headers
		// travel in any case.
		rest := strings.ToLower(strings.ReplaceAll(string(out), "\r", ""))
		for _, want := range []string{`"cause": "panic"`, "store_poisoned", "200 ok", "engramfs-degraded: inode:", "\nhello\n", `"degraded"`, `"dry_run": false`, "again\n"} {
			_, after, ok := strings.Cut(rest, want)
			if !ok {
				t.Fatalf("the output lacks %q\n%s", want, out)
			}
			rest = after
		}
		s.want(204, "DELETE", s.url+"hello.txt", "")
	}
}

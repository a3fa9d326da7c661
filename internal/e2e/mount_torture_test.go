package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// torture skips the test unless the long forms were asked for.
func torture(t *testing.T) {
	t.Helper()
	if !long() {
		t.Skip("only in the long form: ENGRAMFS_LONG=1")
	}
}

// bothWays runs a test on a mount with passthrough and on one without.
func bothWays(t *testing.T, limit time.Duration, run func(t *testing.T, m *Mounted), args ...string) {
	t.Helper()
	for _, integrity := range []string{"fast", "strict"} {
		t.Run(integrity, func(t *testing.T) {
			run(t, onMount(t, limit, append([]string{"--mount-integrity", integrity}, args...)...))
		})
	}
}

// TestTorturePostgreSQL runs a database cluster on the mount, kills it under
// load, lets it recover, and has it verify its own checksums and indexes.
func TestTorturePostgreSQL(t *testing.T) {
	torture(t)
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // a constant pattern is not malformed
	if len(found) == 0 {
		missing(t, "PostgreSQL is not installed")
	}
	Program(t, "setpriv")
	who, err := user.Lookup("postgres")
	if err != nil {
		missing(t, err.Error())
	}
	bothWays(t, 15*time.Minute, func(t *testing.T, m *Mounted) {
		home := m.Path("pg")
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(who.Uid) // the system's own numbers
		gid, _ := strconv.Atoi(who.Gid)
		if err := os.Chown(home, uid, gid); err != nil {
			t.Fatal(err)
		}
		// The temporary folders above the mount point are root's only.
		for dir := filepath.Dir(m.Point); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		p := &postgres{t: t, home: home, bin: filepath.Dir(found[len(found)-1])}
		t.Cleanup(func() { p.stop("immediate") })
		p.run(5*time.Minute, `initdb -D data --data-checksums --auth=trust -U postgres >log 2>&1 || { cat log; exit 1; }`)
		p.start()
		p.run(5*time.Minute, `pgbench -q -i -s 10 postgres; pgbench -c 8 -j 2 -T 60 postgres; psql -qc 'CREATE EXTENSION amcheck' postgres`)
		p.run(time.Minute, `pgbench -n -c 8 -j 2 -T 5 postgres & sleep 3; pg_ctl -D data stop -m immediate; wait || true`)
		p.start()
		p.run(5*time.Minute, `pg_amcheck --heapallindexed --parent-check postgres`)
		sums := p.run(time.Minute, `psql -Atc 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers)
			AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta),0) FROM pgbench_history)' postgres`)
		if strings.TrimSpace(sums) != "t" {
			t.Errorf("the balances do not agree: %s", sums)
		}
		p.stop("fast")
		p.run(5*time.Minute, `pg_checksums --check -D data`)
		t.Log(strings.TrimSpace(p.tps))
	})
}

// postgres is a cluster that listens on a socket in its own folder.
type postgres struct {
	t         *testing.T
	home, bin string
	tps       string
}

// run runs a script as the database's user.
func (p *postgres) run(limit time.Duration, script string) string {
	p.t.Helper()
	env := []string{"PATH=" + p.bin + ":" + os.Getenv("PATH"), "PGHOST=" + p.home, "PGUSER=postgres", "HOME=" + p.home}
	out, err := Command(p.t, limit, p.home, env, "", "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups",
		"/bin/bash", "-euo", "pipefail", "-c", script)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(p.home, "server.log"))
		p.t.Fatalf("%v\n%s\n%s\n%s", err, script, out[max(0, len(out)-4000):], log[max(0, len(log)-4000):])
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "tps") {
			p.tps += "pgbench on the mount: " + line
		}
	}
	return out
}

func (p *postgres) start() {
	p.t.Helper()
	p.run(2*time.Minute, `pg_ctl -D data -l server.log -w -t 100 -o "-c listen_addresses='' -c unix_socket_directories=$HOME -c max_wal_size=256MB" start >/dev/null`)
}

func (p *postgres) stop(mode string) {
	if _, err := os.Stat(filepath.Join(p.home, "data/postmaster.pid")); err == nil {
		p.run(2*time.Minute, "pg_ctl -D data -w stop -m "+mode)
	}
}

// TestTortureTreeCopies moves the Go tree in by tar and by rsync, and compares.
func TestTortureTreeCopies(t *testing.T) {
	torture(t)
	Program(t, "rsync")
	Program(t, "setfattr")
	Program(t, "setfacl")
	source := t.TempDir()
	n := goTree(t, source)
	sh(t, time.Minute, source, `ln src/fmt/print.go hard; ln -s src/fmt/print.go soft; mkfifo fifo; mknod null c 1 3
		setfattr -n user.colour -v green src/fmt/print.go; setfacl -m u:daemon:r src/fmt/scan.go; setfacl -d -m g:daemon:rx src/fmt
		chmod 4755 src/fmt/doc.go; chmod 1777 src/os; chown daemon:daemon src/io/io.go; touch -d '1970-01-02 03:04:05.678901234' src/io/pipe.go`)
	bothWays(t, 30*time.Minute, func(t *testing.T, m *Mounted) {
		begin := time.Now()
		sh(t, 10*time.Minute, m.Point, `tar -C "`+source+`" -cf - . > tree.tar; mkdir tar; tar -C tar -xpf tree.tar
			tar -C tar --compare -f tree.tar; diff -r --no-dereference "`+source+`/src" tar/src`)
		t.Logf("tar: %d files in and compared in %v", n, time.Since(begin).Round(time.Millisecond))
		rsync := `rsync -aHAX --itemize-changes "` + source + `/" rsync/`
		begin = time.Now()
		sh(t, 10*time.Minute, m.Point, rsync)
		took := time.Since(begin)
		for _, again := range []string{rsync, rsync + " --checksum"} {
			if out := sh(t, 10*time.Minute, m.Point, again); out != "" {
				t.Errorf("a second %s transfers\n%.2000s", again, out)
			}
		}
		t.Logf("rsync -aHAX: %d files in %v, the second run transfers nothing", n, took.Round(time.Millisecond))
		sh(t, 10*time.Minute, m.Point, `rm -rf tar rsync tree.tar; test -z "$(ls -A)"`)
	}, "--mount-acl", "--mount-dev", "--mount-suid")
}

// stressors are those of stress-ng's file system class that concern a file
// system of any kind.
var stressors = strings.Fields(`access chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup
	fallocate fcntl fiemap file-ioctl filename flock fpunch fstat fsize getdent handle hdd inotify io iomix lease link
	locka lockf lockofd mknod open rename seek symlink sync-file touch utime xattr
	mmap mmapfork msync readahead revio sendfile splice vm-splice fault`)

// TestTortureStressNG runs each stressor for ENGRAMFS_STRESS seconds.
func TestTortureStressNG(t *testing.T) {
	torture(t)
	stress := Program(t, "stress-ng")
	seconds := stressSeconds(t)
	bothWays(t, time.Duration(len(stressors)*(seconds+60))*time.Second, func(t *testing.T, m *Mounted) {
		var absent []string
		for _, s := range stressors {
			t.Run(s, func(t *testing.T) {
				if !stressed(t, m, seconds, stress, s) {
					absent = append(absent, s)
				}
			})
		}
		t.Logf("stress-ng: %d stressors, %d s each; not for this system: %v", len(stressors)-len(absent), seconds, absent)
	})
}

// stressed runs one stressor, which must not fail and must leave nothing, neither
// files nor errors in the log. It reports whether the stressor could run at all.
func stressed(t *testing.T, m *Mounted, seconds int, stress, name string) bool {
	before, err := m.logErrors()
	if err != nil {
		t.Fatal(err)
	}
	out, err := Command(t, time.Duration(seconds)*time.Second+time.Minute, m.Point, nil, "", stress,
		"--"+name, "2", "--timeout", fmt.Sprintf("%ds", seconds), "--temp-path", m.Point, "--verify", "--oomable")
	code := exitCode(err)
	if code != 0 && code != 4 { // 4: not for this system, or an operation that file systems may lack
		t.Errorf("exit status %d, %v\n%.4000s", code, err, out)
	}
	after, err := m.logErrors()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(after) - len(before); n > 0 {
		t.Errorf("the server logged %d errors, as %.1000s", n, after[len(after)-1])
	}
	left, err := os.ReadDir(m.Point)
	if name == "open" { // it is ended between open and unlink, and leaves files on any file system
		left = slices.DeleteFunc(left, func(e os.DirEntry) bool {
			fi, err := e.Info()
			return err == nil && fi.Size() == 0 && strings.HasPrefix(e.Name(), "stress-open-")
		})
	}
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	sh(t, time.Minute, m.Point, "rm -rf -- ./*")
	return code == 0
}

// exitCode returns the exit status behind err, -1 if there is none.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// TestTortureDbench plays the load of a file server's clients.
func TestTortureDbench(t *testing.T) {
	torture(t)
	dbench := Program(t, "dbench")
	seconds := 120
	bothWays(t, 10*time.Minute, func(t *testing.T, m *Mounted) {
		out, err := Command(t, 5*time.Minute, m.Point, nil, "", dbench, "-D", m.Point, "-t", strconv.Itoa(seconds), "8")
		if err != nil || strings.Contains(out, "failed") || !strings.Contains(out, "Throughput") {
			t.Fatalf("dbench: %v\n%s", err, out[max(0, len(out)-4000):])
		}
		t.Logf("dbench: 8 clients, %d s, no failure: %s", seconds, out[strings.Index(out, "Throughput"):])
	})
}

// TestTortureFio writes at random, in every way that a program can, and reads
// back what it has written.
func TestTortureFio(t *testing.T) {
	torture(t)
	fio := Program(t, "fio")
	bothWays(t, 10*time.Minute, func(t *testing.T, m *Mounted) {
		for _, way := range []string{"--ioengine=psync", "--ioengine=psync --direct=1", "--ioengine=mmap", "--ioengine=libaio --iodepth=16 --direct=1",
			"--ioengine=psync --fsync=8", "--ioengine=psync --bssplit=512/20:4k/40:64k/30:1m/10 --bs_unaligned=1"} {
			sh(t, 3*time.Minute, m.Point, fio+` --name=verify --directory=. --rw=randwrite --bs=4k --size=64m --numjobs=2 --runtime=20 --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting --minimal `+way+"; rm -f verify.*")
		}
		t.Log("fio: random writes of 6 kinds, every block verified")
	})
}

// stressSeconds is how long each stressor runs: ENGRAMFS_STRESS, or 5.
func stressSeconds(t *testing.T) int {
	t.Helper()
	v := os.Getenv("ENGRAMFS_STRESS")
	if v == "" {
		return 5
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("ENGRAMFS_STRESS=%q is no number of seconds", v)
	}
	return n
}

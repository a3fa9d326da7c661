package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestComplete(t *testing.T) {
	for line, want := range map[string]string{
		"":                                 "serve mount check healthcheck admin completion version",
		"ad":                               "admin",
		"nothing":                          "",
		"completion ":                      "bash zsh fish",
		"admin h":                          "health handles",
		"admin --json ha":                  "handles",
		"admin --url x ha":                 "handles",
		"admin --url=x ha":                 "handles",
		"admin --url ha":                   "",
		"admin drill --ca":                 "--cause",
		"admin drill --cause ":             "panic goexit error hold",
		"admin drill --cause g":            "goexit",
		"admin drill --cause=g":            "--cause=goexit",
		"admin drill --unknown=g":          "",
		"admin check ":                     "start status stop",
		"admin check sta":                  "start status",
		"admin check start ":               "",
		"admin reset -y --rea":             "--reason",
		"serve --data ":                    ":dirs",
		"serve --tls-k":                    "--tls-key",
		"serve --tls-key some/":            ":files",
		"serve --log-format j":             "json",
		"serve --mount-integrity=":         "--mount-integrity=fast --mount-integrity=strict",
		"mount ":                           ":dirs",
		"mount -- --log":                   ":dirs",
		"admin locks inode:7 ":             "",
		"admin --admin 127.0.0.1:1 locks ": "",
	} {
		words := strings.Split(line, " ")
		code, out, errs := runProgram(t, append([]string{"completion", "words", "--"}, words...)...)
		var got []string
		for l := range strings.Lines(out) {
			word, _, _ := strings.Cut(strings.TrimSuffix(l, "\n"), "\t")
			got = append(got, word)
		}
		if code != exitClean || strings.Join(got, " ") != want {
			t.Errorf("%q: exit %d, got %q, want %q %s", line, code, got, want, errs)
		}
	}
}

// shellScripts run a shell that completes $LINE and prints the candidates, one a
// line. zsh completes only with a terminal, so its part that offers words is
// replaced.
var shellScripts = map[string]string{
	"bash": `source <(engramfs completion bash)
		compopt() { echo "option $2"; }
		COMP_LINE=$LINE COMP_POINT=${#LINE}
		_engramfs
		printf '%s\n' "${COMPREPLY[@]}"`,
	"zsh": `compdef() { }
		_describe() { print -rl -- "${found[@]}" | sed 's/\([^\]\):.*/\1/; s/\\:/:/g' }
		compset() { }
		_files() { print "option ${1:-default}" }
		source <(engramfs completion zsh)
		words=("${(@s: :)LINE}") CURRENT=${#words}
		_engramfs`,
	"fish": `engramfs completion fish | source
		complete -C "$LINE" | string replace -r '\t.*' ''; true`,
}

func TestCompletionInShells(t *testing.T) {
	s := serveAdmin(t, newTroubled())
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "engramfs")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(bin, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for shell, script := range shellScripts {
		t.Run(shell, func(t *testing.T) {
			if _, err := exec.LookPath(shell); err != nil {
				need(t, "no "+shell)
			}
			complete := func(line string) []string {
				t.Helper()
				cmd := exec.Command(shell, "-c", script)
				cmd.Dir = bin
				cmd.Env = append(os.Environ(), asMain+"=1", "GORACE=atexit_sleep_ms=0", "PATH="+bin+":"+os.Getenv("PATH"), "LINE="+line, "HOME="+bin,
					"ENGRAMFS_ADMIN="+s.Listener.Addr().String(), "ENGRAMFS_DATA="+dataWith(t, goodToken))
				cmd.Stderr = os.Stderr
				out, err := cmd.Output()
				if err != nil {
					t.Errorf("%s: %v\n%s", line, err, out)
				}
				words := strings.Fields(string(out))
				slices.Sort(words)
				return words
			}
			for line, want := range map[string]string{
				"engramfs ad":                    "admin",
				"engramfs admin drill --cause g": "goexit",
				"engramfs admin check sta":       "start status",
			} {
				if got := complete(line); strings.Join(got, " ") != want {
					t.Errorf("%s: %q, want %q", line, got, want)
				}
			}
			lock := map[string]string{"bash": "7"}[shell] // what is behind bash's break of words
			if lock == "" {
				lock = "inode:7"
			}
			if got := complete("engramfs admin reset inode:"); strings.Join(got, " ") != lock {
				t.Errorf("poisoned lock: %q", got)
			}
			want := map[string]string{"bash": "dirnames option", "zsh": "-/ option", "fish": "folder/"}[shell]
			if got := strings.Join(complete("engramfs serve --data fo"), " "); got != want {
				t.Errorf("folders: %q, want %q", got, want)
			}
			if shell == "fish" { // the others take the flag off by themselves
				want = "--data=" + want
			}
			if got := strings.Join(complete("engramfs serve --data=fo"), " "); got != want {
				t.Errorf("folders behind =: %q, want %q", got, want)
			}
		})
	}
}

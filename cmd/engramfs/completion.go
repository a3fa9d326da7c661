package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"engramfs/web"
)

// completionCmd prints what makes a shell complete the command line. The scripts
// know nothing of the commands: they ask this program, so that they are right for
// whatever version of it is installed.
type completionCmd struct {
	Bash  bashCmd  `cmd:"" help:"For ~/.bashrc: source <(engramfs completion bash)"`
	Zsh   zshCmd   `cmd:"" help:"For ~/.zshrc, after compinit: source <(engramfs completion zsh)"`
	Fish  fishCmd  `cmd:"" help:"For ~/.config/fish/config.fish: engramfs completion fish | source"`
	Words wordsCmd `cmd:"" hidden:"" help:"Complete the last of the words."`
}

type (
	bashCmd struct{}
	zshCmd  struct{}
	fishCmd struct{}
)

// Run prints the script.
func (bashCmd) Run(p *process) error { return printScript(p, bashScript) }

// Run prints the script.
func (zshCmd) Run(p *process) error { return printScript(p, zshScript) }

// Run prints the script.
func (fishCmd) Run(p *process) error { return printScript(p, fishScript) }

func printScript(p *process, text string) error {
	_, err := io.WriteString(p.stdout, text)
	return err
}

// wordsCmd completes a command line.
type wordsCmd struct {
	Words []string `arg:"" optional:"" help:"The words after the program's name, up to the cursor."`
}

// Candidates that stand for names of files, which the shell knows best, and of
// locks, which the server knows.
const (
	filesLine = ":files"
	dirsLine  = ":dirs"
	locksLine = ":locks"
)

// lockTimeout bounds the question for the names of locks: somebody waits for it
// with a finger on the key.
const lockTimeout = time.Second

// Run prints a line for each word that can stand where the last one is, with a tab
// and a description; or else filesLine or dirsLine.
func (c *wordsCmd) Run(ctx *kong.Context, p *process) error {
	l, last := readLine(ctx.Model.Node, c.Words)
	var b strings.Builder
	for _, w := range l.complete(last) {
		if w.text == locksLine {
			for _, name := range lockNames(p, l) {
				if strings.HasPrefix(name, last) {
					b.WriteString(name + "\n")
				}
			}
			continue
		}
		b.WriteString(w.text)
		if w.doc != "" {
			b.WriteString("\t" + w.doc)
		}
		b.WriteByte('\n')
	}
	return printScript(p, b.String())
}

// candidate is a word, and what it means.
type candidate struct{ text, doc string }

// lockNames asks the server that the command line is about for its locks: for a
// reset the poisoned ones. Without an answer there are none to offer.
func lockNames(p *process, l *commandLine) []string {
	ctx, cancel := context.WithTimeout(p.ctx, lockTimeout)
	defer cancel()
	var answer bytes.Buffer
	if run(ctx, append([]string{"admin", "locks", "--json"}, l.server...), &answer, io.Discard) != exitClean {
		return nil
	}
	var list web.LockList
	if json.Unmarshal(answer.Bytes(), &list) != nil {
		return nil
	}
	var names []string
	for _, lock := range list.Locks {
		if l.node.Name != "reset" || lock.State == "poisoned" {
			names = append(names, visible(lock.Name))
		}
	}
	return names
}

// readLine takes all words but the last, and returns that.
func readLine(app *kong.Node, words []string) (l *commandLine, last string) {
	if len(words) == 0 {
		words = []string{""}
	}
	l = &commandLine{node: app}
	for _, w := range words[:len(words)-1] {
		l.take(w)
	}
	return l, words[len(words)-1]
}

// complete returns the words that can stand where last is.
func (l *commandLine) complete(last string) []candidate {
	var found []candidate
	for _, c := range l.candidates(last) {
		if strings.HasPrefix(c.text, last) || strings.HasPrefix(c.text, ":") {
			found = append(found, c)
		}
	}
	return found
}

// commandLine is what the words so far say.
type commandLine struct {
	node     *kong.Node
	value    *kong.Flag // the next word is the value of this flag; nil: it is not
	noFlags  bool       // there was a --
	argument int        // how many positional arguments there were
	server   []string   // flags that say which server is meant
}

func (l *commandLine) take(word string) {
	switch {
	case l.value != nil:
		l.note(l.value, word)
		l.value = nil
	case l.noFlags:
		l.argument++
	case word == "--":
		l.noFlags = true
	case len(word) > 1 && word[0] == '-':
		name, _, given := strings.Cut(word, "=")
		f := l.flag(name)
		if f == nil {
			return
		}
		l.note(f, word)
		if !given && !f.IsBool() && !f.IsCounter() {
			l.value = f
		}
	default:
		for _, c := range l.node.Children {
			if c.Name == word {
				l.node, l.argument = c, 0
				return
			}
		}
		l.argument++
	}
}

// note keeps a word that is f or its value, if f says which server is meant.
func (l *commandLine) note(f *kong.Flag, word string) {
	if parent := l.node.Parent; parent != nil && parent.Name == "admin" && slices.Contains(parent.Flags, f) {
		l.server = append(l.server, word)
	}
}

// flags returns those of the command and of the commands that it is part of.
func (l *commandLine) flags() []*kong.Flag {
	var all []*kong.Flag
	for _, group := range l.node.AllFlags(true) {
		all = append(all, group...)
	}
	return all
}

func (l *commandLine) flag(name string) *kong.Flag {
	for _, f := range l.flags() {
		if name == "--"+f.Name || f.Short != 0 && name == "-"+string(f.Short) {
			return f
		}
	}
	return nil
}

// candidates returns what can stand next, given what is typed of it.
func (l *commandLine) candidates(typed string) []candidate {
	switch name, _, given := strings.Cut(typed, "="); {
	case l.value != nil:
		return valuesOf(l.value.Value, l.value.PlaceHolder, "")
	case l.noFlags:
	case given && strings.HasPrefix(name, "--"):
		if f := l.flag(name); f != nil {
			return valuesOf(f.Value, f.PlaceHolder, name+"=")
		}
		return nil
	case strings.HasPrefix(typed, "-"):
		var list []candidate
		for _, f := range l.flags() {
			list = append(list, candidate{"--" + f.Name, docOf(f.Help)})
		}
		return list
	}
	var list []candidate
	for _, c := range l.node.Children {
		if !c.Hidden {
			list = append(list, candidate{c.Name, docOf(c.Help)})
		}
	}
	if l.argument < len(l.node.Positional) {
		arg := l.node.Positional[l.argument]
		list = append(list, valuesOf(arg, strings.ToUpper(arg.Name), "")...)
	}
	return list
}

// valuesOf returns the values of a flag or an argument, as far as they are known.
func valuesOf(v *kong.Value, placeholder, prefix string) []candidate {
	switch placeholder {
	case "FILE":
		return []candidate{{text: filesLine}}
	case "DIR":
		return []candidate{{text: dirsLine}}
	case "LOCK":
		return []candidate{{text: locksLine}}
	}
	if v.Enum == "" {
		return nil
	}
	var list []candidate
	for _, word := range strings.Split(v.Enum, ",") {
		list = append(list, candidate{text: prefix + word})
	}
	return list
}

// docOf returns the first clause of a help text: a line of a shell is short.
func docOf(help string) string {
	for _, stop := range []string{"; ", ". ", " (${", " (", ": "} {
		help, _, _ = strings.Cut(help, stop)
	}
	return strings.TrimSuffix(help, ".")
}

// bash breaks words at colons and equal signs and replaces only what is behind the
// last of them, so the words are those of the line, and what stands before the
// break is taken off the answers.
const bashScript = `_engramfs() {
  local line=${COMP_LINE:0:COMP_POINT} words word cut= answer
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  word=${words[${#words[@]}-1]}
  [[ $word == *[=:]* ]] && cut=${word%"${word##*[=:]}"}
  COMPREPLY=()
  while IFS= read -r answer; do
    case $answer in
      :files) compopt -o default ;;
      :dirs) compopt -o dirnames ;;
      *) answer=${answer%%$'\t'*}; COMPREPLY+=("${answer#"$cut"}") ;;
    esac
  done < <("${words[0]}" completion words -- "${words[@]:1}" 2>/dev/null)
}
complete -F _engramfs engramfs
`

const zshScript = `#compdef engramfs
_engramfs() {
  local line
  local -a found
  for line in "${(@f)$("${words[1]}" completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    case $line in
      :files) [[ $PREFIX == --*=* ]] && compset -P '*='; _files; return ;;
      :dirs) [[ $PREFIX == --*=* ]] && compset -P '*='; _files -/; return ;;
      ?*) found+=("${${line//:/\\:}/$'\t'/:}") ;;
    esac
  done
  _describe engramfs found
}
compdef _engramfs engramfs
`

const fishScript = `function __engramfs_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l answers ($words[1] completion words -- $words[2..-1] "$word" 2>/dev/null)
    set -l flag (string match -r '^--[^=]*=' -- "$word")
    set -l path (string replace -r '^--[^=]*=' '' -- "$word")
    switch "$answers[1]"
        case :files
            printf "$flag%s\n" (__fish_complete_path "$path")
        case :dirs
            printf "$flag%s\n" (__fish_complete_directories "$path")
        case '*'
            printf '%s\n' $answers
    end
end
complete -c engramfs -f -a '(__engramfs_complete)'
`

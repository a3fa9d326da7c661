package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// chosen returns the rows of each group that the options select, in table order.
func (o options) chosen() ([]row, []mountRow, error) {
	names, err := selector(o.rows, rowNames())
	if err != nil {
		return nil, nil, fmt.Errorf("unknown row %w", err)
	}
	for name := range strings.SplitSeq(o.peers, ",") {
		if o.peers != "all" && !slices.Contains(peerNames(), name) {
			return nil, nil, fmt.Errorf("unknown peer %q", name)
		}
	}
	rows := slices.DeleteFunc(allRows(), func(r row) bool { return !names[r.name] })
	mounts := slices.DeleteFunc(mountRows(), func(r mountRow) bool { return !names[r.name] })
	if o.group == "mount" || !slices.ContainsFunc(allPeers("", ""), func(p peer) bool { return o.wants(p.name) }) {
		rows = nil
	}
	if o.group == "dav" || !slices.ContainsFunc(mountPeers("", ""), func(f filesystem) bool { return o.wants(f.name) }) {
		mounts = nil
	}
	if len(rows)+len(mounts) == 0 {
		return nil, nil, fmt.Errorf("no row of group %q for these rows and peers", o.group)
	}
	return rows, mounts, nil
}

// selector returns which names a comma-separated list of regular expressions
// selects. Each has to match a whole name. The error holds the first without any.
func selector(list string, names []string) (map[string]bool, error) {
	selected := map[string]bool{}
	if list == "all" {
		list = ".*"
	}
	for expr := range strings.SplitSeq(list, ",") {
		re, err := regexp.Compile("^(?:" + expr + ")$")
		if err != nil {
			return nil, fmt.Errorf("%q: %w", expr, err)
		}
		found := false
		for _, name := range names {
			if re.MatchString(name) {
				found, selected[name] = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("%q", expr)
		}
	}
	return selected, nil
}

func rowNames() (names []string) {
	for _, r := range allRows() {
		names = append(names, r.name)
	}
	for _, r := range mountRows() {
		names = append(names, r.name)
	}
	return names
}

// peerNames returns the peers of both groups; some are in both.
func peerNames() (names []string) {
	for _, p := range allPeers("", "") {
		names = append(names, p.name)
	}
	for _, f := range mountPeers("", "") {
		if !slices.Contains(names, f.name) {
			names = append(names, f.name)
		}
	}
	return names
}

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"offshoot/node/status"
)

func printArtifacts(w io.Writer, all []status.Artifact) error {
	var rows [][]string
	for _, a := range all {
		here, travels, pinned := "no", "whole", "no"
		if a.Pinned {
			pinned = "yes"
		}
		if a.Here {
			here = "yes"
		}
		if a.InfoHash != "" {
			travels = "pieces"
		}
		if a.Fetch != nil {
			here = pace(*a.Fetch)
		}
		var warm []string
		for _, segment := range slices.Sorted(maps.Keys(a.Warm)) {
			warm = append(warm, fmt.Sprintf("%s=%d", segment, a.Warm[segment]))
		}
		by, _, _ := strings.Cut(a.Verified, ": ") // the chain is for show
		rows = append(rows, []string{a.Name, megabytes(a.Size), a.Digest[:min(len(a.Digest), 12)], travels, strings.Join(a.Profiles, ","), strings.Join(warm, ","), here, pinned, by})
	}
	return table(w, "ARTIFACT SIZE SHA-256 TRAVELS PROFILES WARM HERE PINNED VERIFIED", rows)
}

// printArtifact shows one with its chain, a link a line.
func printArtifact(w io.Writer, a status.Artifact) error {
	here := "no"
	if a.Here {
		here = "yes"
	}
	if a.Fetch != nil {
		here = pace(*a.Fetch)
	}
	pinned := "no"
	if a.Pinned {
		pinned = "yes"
	}
	lines := [][2]string{
		{"artifact", a.Name}, {"sha-256", a.Digest}, {"size", fmt.Sprintf("%s (%d bytes)", megabytes(a.Size), a.Size)}, {"from", a.Origin},
	}
	lines = append(lines, chainLines(a)...)
	lines = append(lines, [2]string{"needed by", strings.Join(a.Profiles, ", ")}, [2]string{"pinned", pinned}, [2]string{"here", here}, [2]string{"nodes", strings.Join(a.Nodes, ", ")})
	if m := a.Medium; m != nil {
		what := strings.Join(slices.DeleteFunc([]string{m.Distribution, m.Release, m.Arch}, func(s string) bool { return s == "" }), " ")
		if what == "" {
			what = "no installer that is known here"
		}
		lines = append(lines, [2]string{"iso", what + " (volume " + m.Volume + ")"})
		for _, p := range [][2]string{{"kernel", m.Kernel}, {"initrd", m.Initrd}} {
			if p[1] != "" {
				lines = append(lines, [2]string{p[0], "http://NODE:7480/iso/" + a.Digest + "/" + p[1]})
			}
		}
	}
	for _, l := range lines {
		if l[1] == "" {
			l[1] = "-"
		}
		if _, err := fmt.Fprintf(w, "%-10s %s\n", l[0], plain(l[1])); err != nil {
			return err
		}
	}
	return nil
}

// chainLines are what vouches for an artifact, and below it the links of the chain.
func chainLines(a status.Artifact) [][2]string {
	by, rest, chained := strings.Cut(a.Verified, ": ")
	label := "verified"
	if a.Unverified() {
		label = "UNVERIFIED"
		by = strings.TrimPrefix(a.Verified, "unverified: ")
		chained = false
	}
	lines := [][2]string{{label, by}}
	if !chained {
		return lines
	}
	for i, link := range strings.Split(rest, " → ") {
		lines = append(lines, [2]string{"", strings.Repeat("  ", i) + "→ " + link})
	}
	return lines
}

func printVerified(w io.Writer, all []status.Verification) error {
	var rows [][]string
	for _, v := range all {
		result := "good"
		if !v.Good {
			result = "BAD: " + v.Problem
		}
		rows = append(rows, []string{v.Name, megabytes(v.Size), v.Digest[:min(len(v.Digest), 12)], result, v.Verified})
	}
	return table(w, "ARTIFACT SIZE SHA-256 BYTES VERIFIED", rows)
}

// printUnverified names what machines would get though nothing vouches for it.
func printUnverified(w io.Writer, all []status.Artifact) error {
	for _, a := range all {
		if !a.Unverified() || len(a.Profiles) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "UNVERIFIED  %s, which profile %s needs: offshoot artifact show %s\n", plain(a.Name), plain(strings.Join(a.Profiles, ", ")), a.Digest[:min(len(a.Digest), 12)]); err != nil {
			return err
		}
	}
	return nil
}

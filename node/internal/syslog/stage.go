package syslog

import (
	"strings"

	"offshoot/node/status"
)

// Stage is what an installer does by its log.
type Stage struct {
	Name string
	Step int // grows in the order of an installation
}

// stages are well-known lines: what the program's name has in it, what the line has in it, and what that means.
var stages = []struct {
	program, text string
	stage         Stage
}{
	// debian-installer, of its main menu; Ubuntu's was the same until 20.04.
	{"main-menu", "Menu item 'partman-base' selected", Stage{"partitioning", 10}},
	{"main-menu", "Menu item 'bootstrap-base' selected", Stage{"base system", 20}},
	{"main-menu", "Menu item 'pkgsel' selected", Stage{"packages", 30}},
	{"main-menu", "Menu item 'grub-installer' selected", Stage{"boot loader", 40}},
	{"main-menu", "Menu item 'finish-install' selected", Stage{"finishing", 50}},
	// Anaconda: the headings of its queue of tasks.
	{"anaconda", "Setting up the installation environment", Stage{"preparing", 5}},
	{"anaconda", "Installing * packages", Stage{"packages", 30}},
	{"anaconda", "Performing post-installation setup tasks", Stage{"finishing", 50}},
}

// StageOf says what a line tells of an installation; ok is false for all but a few lines.
func StageOf(line status.LogLine) (s Stage, ok bool) {
	program := strings.ToLower(line.Program)
	for _, known := range stages {
		begin, end, _ := strings.Cut(known.text, "*")
		_, rest, begins := strings.Cut(line.Text, begin)
		if begins && strings.Contains(rest, end) && strings.Contains(program, known.program) {
			return known.stage, true
		}
	}
	return Stage{}, false
}

package agent

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// consoles are the terminals that the kernel's command line names: a screen and a serial port, as a rule. What /dev/console means
// is only the last of them.
type consoles []*os.File

// openConsoles opens those that can be opened; who stands before any of them reads and types. lines are what is typed while somebody
// listens: the rest is dropped, so that what was typed in vain chooses nothing later.
func openConsoles() (out io.Writer, lines <-chan string) {
	var all consoles
	active, err := os.ReadFile("/sys/class/tty/console/active")
	if err == nil {
		for name := range strings.FieldsSeq(string(active)) {
			if f, err := os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_NOCTTY, 0); err == nil {
				all = append(all, f)
			}
		}
	}
	typed := make(chan string)
	for _, f := range all {
		go listenTo(f, typed)
	}
	if len(all) == 0 {
		return openConsole(), typed
	}
	return all, typed
}

// Write shows p on every console. One that is dead must not keep it from the others.
func (c consoles) Write(p []byte) (int, error) {
	for _, f := range c {
		_, _ = f.Write(p)
	}
	return len(p), nil
}

// listenTo passes lines on until the terminal is gone.
func listenTo(terminal io.Reader, lines chan<- string) {
	for in := bufio.NewScanner(terminal); in.Scan(); {
		select {
		case lines <- in.Text():
		default:
		}
	}
}

// openConsole returns the console of the kernel's own choice.
func openConsole() io.Writer {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) || err != nil {
		return os.Stdout // the kernel opened it for us, or there is none
	}
	return f
}

// consoleLogger prints words for people: no times (the serial log of who reads has them), and no debug lines unless asked.
func consoleLogger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.Attr{}
		}
		return a
	}}))
}

// Command bench measures the figures of the project, here and now, each beside its bound or its peer in the same run. `make
// bench` runs it. With the argument "lease" it measures what DHCP clients see and what a datacentre costs, and with the names of
// parts behind that only these; docs/testing.md says how to read it. "share" and "mirror"
// measure how bytes get to machines, "boot" how machines get what they boot from, "memory" what it costs to have many of them.
package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	benches := map[string]func(context.Context, []string) error{
		"lease": leaseBench, "share": shareBench, "mirror": mirrorBench, "memory": memoryBench, "install": installBench, "uplinks": uplinksBench,
		"boot": bootBench,
	}
	run, args := func(ctx context.Context, _ []string) error { return bench(ctx) }, os.Args[1:]
	if len(args) > 0 && benches[args[0]] != nil {
		run, args = benches[args[0]], args[1:]
	}
	if err := run(ctx, args); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// figure is one line of the table.
type figure struct{ what, got, want string }

func bench(ctx context.Context) (err error) {
	if missing := lab.Missing(lab.Metal); len(missing) > 0 {
		return fmt.Errorf("this machine lacks: %v", missing)
	}
	binary, image := os.Getenv("OFFSHOOT_BIN"), os.Getenv("OFFSHOOT_IMAGE")
	if binary == "" || image == "" {
		return errors.New("run it with: make bench")
	}
	dir := filepath.Join("build", "bench")
	// What a run left that was killed is named in its folder: first that, then the folder.
	if err := errors.Join(lab.Sweep(dir), os.RemoveAll(dir)); err != nil {
		return err
	}
	w, err := story.NewWorld(story.Options{
		Binary: binary, Image: image, Dir: dir, Say: func(line string) { fmt.Println(line) },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	var all []figure
	add := func(what, want, format string, args ...any) {
		all = append(all, figure{what, fmt.Sprintf(format, args...), want})
	}
	size, static, err := inspect(binary)
	if err != nil {
		return err
	}
	add("binary", "< 45 MB, static", "%.1f MB, static %v", float64(size)/1e6, static)
	start, err := warmStart(ctx, w)
	if err != nil {
		return err
	}
	add("seed start to ready, warm cache, without the probe", "< 2 s", "%.2f s", start.Seconds())
	report, m1, err := story.OneMachine(ctx, w, lab.BIOS)
	if err != nil {
		return err
	}
	rss, err := resident(ctx, m1)
	if err != nil {
		return err
	}
	add("resident memory of an idle node (m1)", "< 150 MB", "%d MB", rss>>20)
	agent, pipe, err := imageOntoDisk(ctx, w, m1, binary, image)
	if err != nil {
		return err
	}
	add("image onto disk: agent against `socket | zstd -d | dd`, same machine", ">= 0.9", "%.2f (agent %.1f s, pipe %.1f s)",
		pipe.Seconds()/agent.Seconds(), agent.Seconds(), pipe.Seconds())
	fmt.Println()
	for _, f := range all {
		fmt.Printf("%-70s %-40s want %s\n", f.what, f.got, f.want)
	}
	fmt.Printf("\npower-on to member, from m1's timeline (the demo prints it for three machines):\n%s\n", report.Phases())
	return nil
}

func inspect(path string) (size int64, static bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false, err
	}
	f, err := elf.Open(path)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = f.Close() }()
	static = true
	for _, p := range f.Progs {
		static = static && p.Type != elf.PT_INTERP
	}
	return info.Size(), static, nil
}

// warmStart starts the seed twice, and measures the second start; the probe is a second here, and taken off.
func warmStart(ctx context.Context, w *story.World) (time.Duration, error) {
	const probe = time.Second
	var took time.Duration
	for range 2 {
		began := time.Now()
		seed, err := w.StartSeed(ctx, "--probe", probe.String())
		if err != nil {
			return 0, err
		}
		for {
			log, err := os.ReadFile(seed.Log)
			if err != nil {
				return 0, err
			}
			if at := strings.LastIndex(string(log), "\nready "); at >= 0 {
				break
			}
			select {
			case <-seed.Ended():
				return 0, fmt.Errorf("the seed ended: %w", seed.Err())
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
		}
		took = time.Since(began) - probe
		seed.Kill()
		if err := os.Remove(seed.Log); err != nil {
			return 0, err
		}
	}
	return took, os.RemoveAll(filepath.Join(w.Lab.Dir(), "seed"))
}

// resident is the memory of the node on a machine, bytes.
func resident(ctx context.Context, m *story.Shell) (int64, error) {
	out, err := m.Run(ctx, "grep VmRSS /proc/$(pidof offshoot | cut -d' ' -f1)/status")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(out)
	if len(fields) < 2 {
		return 0, fmt.Errorf("unexpected %q", out)
	}
	kb, err := strconv.ParseInt(fields[1], 10, 64)
	return kb << 10, err
}

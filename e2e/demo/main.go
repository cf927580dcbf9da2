// Command demo shows the main job of offshoot on this one machine, in a throwaway lab of virtual machines. `make demo` runs
// it; see docs/testing.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx); err != nil {
		if ctx.Err() != nil {
			_, _ = fmt.Fprintln(os.Stderr, "demo: interrupted; networks, machines and processes are removed")
			os.Exit(130)
		}
		_, _ = fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context) (err error) {
	if missing := lab.Missing(lab.Metal); len(missing) > 0 {
		return fmt.Errorf("this machine lacks: %v", missing)
	}
	binary, image := os.Getenv("OFFSHOOT_BIN"), os.Getenv("OFFSHOOT_IMAGE")
	if binary == "" || image == "" {
		return errors.New("run it with: make demo")
	}
	dir := filepath.Join("build", "demo")
	// What a run left that was killed is named in its folder: first that, then the folder.
	if err := errors.Join(lab.Sweep(dir), os.RemoveAll(dir)); err != nil {
		return err
	}
	if lab.KVM() {
		fmt.Println("virtual machines run on KVM")
	} else {
		fmt.Println("no KVM here: virtual machines are emulated, which takes about ten minutes")
	}
	w, err := story.NewWorld(story.Options{
		Binary: binary, Image: image, Dir: dir, Say: func(line string) { fmt.Println(line) }, Fourth: true,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, w.Close())
		if err == nil {
			err = os.RemoveAll(dir)
			return
		}
		fmt.Println("\nconsoles, logs and captures are kept in", dir)
	}()
	report, err := story.FirstLight(ctx, w)
	if err != nil {
		return err
	}
	fmt.Printf("\n$ offshoot swarm status      (asked on m2)\n%s\n", report.Status)
	names := make([]string, 0, len(report.Timelines))
	for name := range report.Timelines {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Printf("$ offshoot machine show %s\n%s\n", name, report.Timelines[name])
	}
	fmt.Println(report.Phases())
	fmt.Println(report.Sources())
	return nil
}

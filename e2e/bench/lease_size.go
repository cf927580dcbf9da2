package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// size takes the figures of a datacentre from the benchmarks of package node, each in a process of its own, so that none sees the
// other's memory. It is run at the root of the tree, as make does.
func (b *leases) size(ctx context.Context) error {
	program := filepath.Join(b.dir, "node.test")
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "./node").CombinedOutput(); err != nil {
		return fmt.Errorf("build the benchmarks of package node: %w: %s", err, out)
	}
	m, err := measure(ctx, program, "StatusOfADatacentre")
	failed := []error{err}
	if err == nil {
		b.table.set(statusTime, "%.0f ms, %.0f MB resident", m["ns/op"]/1e6, m["MB-resident"])
	}
	m, err = measure(ctx, program, "RestartWithManyLeases")
	failed = append(failed, err)
	if err == nil {
		b.table.set(restartTime, "%.2f s", m["ns/op"]/1e9)
	}
	return errors.Join(append(failed, b.growth(ctx, program))...)
}

// growth compares the leader of 400 nodes with that of 100: one that holds no duty, and one that holds one, and so feeds the
// followers of its segment.
func (b *leases) growth(ctx context.Context, program string) error {
	var text []string
	var failed []error
	for _, duty := range []bool{false, true} {
		var all [2]metrics
		var err error
		for i, nodes := range []int{100, 400} {
			if err == nil {
				all[i], err = measure(ctx, program, fmt.Sprintf("LeaderOfASwarm/duty=%v/nodes=%d", duty, nodes))
			}
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		few, many := all[0], all[1]
		kind := "no duty"
		if duty {
			kind = "one duty"
		}
		text = append(text, fmt.Sprintf("%s: CPU %.1f x (%.0f, %.0f ms/s), bytes %.1f x (%.0f, %.0f KB/s)", kind,
			many["leader-ms/s"]/few["leader-ms/s"], few["leader-ms/s"], many["leader-ms/s"], many["KB/s"]/few["KB/s"], few["KB/s"], many["KB/s"]))
		b.table.set(growth, "%s", strings.Join(text, "; "))
	}
	return errors.Join(failed...)
}

// metrics are what one benchmark says, by unit.
type metrics map[string]float64

// measure runs one benchmark; a slash leads to one of its parts.
func measure(ctx context.Context, program, benchmark string) (metrics, error) {
	pattern := "^Benchmark" + strings.ReplaceAll(benchmark, "/", "$/^") + "$"
	cmd := exec.CommandContext(ctx, program, "-test.run", "^$", "-test.bench", pattern, "-test.timeout", "20m")
	cmd.Dir = "node"
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s%s", benchmark, err, out, errs.String())
	}
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 2 && strings.HasPrefix(fields[0], "Benchmark"+benchmark) {
			fmt.Print(line)
			return readMetrics(fields[2:])
		}
	}
	return nil, fmt.Errorf("%s: no figures in %q", benchmark, out)
}

// readMetrics reads values and their units, in turns.
func readMetrics(fields []string) (metrics, error) {
	m := metrics{}
	for i := 0; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return nil, fmt.Errorf("figure %q: %w", fields[i], err)
		}
		m[fields[i+1]] = v
	}
	return m, nil
}

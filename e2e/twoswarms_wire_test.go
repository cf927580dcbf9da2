//go:build wire

package e2e

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"offshoot/e2e/lab"
)

// TestTwoSeedsThatStartTogetherDoNotBothServe: two operators start a seed on the same segment at the same moment, so that neither
// hears the other while it probes. Within a second one of them must have fallen silent for good.
func TestTwoSeedsThatStartTogetherDoNotBothServe(t *testing.T) {
	t.Parallel()
	lab.Need(t, "perfdhcp", "dhclient")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w, small := world(t)
	other, err := w.Lab.Host("other", w.Lan0)
	if err != nil {
		t.Fatal(err)
	}
	crowd, err := w.NewCrowd(ctx, 10, 40)
	if err != nil {
		t.Fatal(err)
	}
	flags := []string{"--probe", "3s", "--expand", "never", "--live-kernel", small.Kernel, "--live-modules", small.Modules}
	if _, err := w.StartSeed(ctx, flags...); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"seed", "--interface", "lan0", "--image", small.Image, "--ssh-key", filepath.Join(w.Lab.Dir(), "operator.pub"), "--name", "other"}, flags...)
	if _, err := w.Start(ctx, other, filepath.Join(w.Lab.Dir(), "other"), append(args, "--network", "192.168.42.2/24")...); err != nil {
		t.Fatal(err)
	}
	if err := lapse(ctx, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := crowd.Stop(); err != nil {
		t.Error(err)
	}
	messages, err := lab.ReadDHCP(w.Captures["lan0"].Path())
	if err != nil {
		t.Fatal(err)
	}
	by, first, last := map[string]int{}, map[string]time.Time{}, map[string]time.Time{}
	for _, m := range messages {
		if m.Reply {
			server := m.ServerID.String()
			if by[server] == 0 {
				first[server] = m.Time
			}
			by[server]++
			last[server] = m.Time
		}
	}
	for server := range by {
		t.Logf("%s answered %d times, from %s to %s", server, by[server], first[server].Format("15:04:05.000"), last[server].Format("15:04:05.000"))
	}
	if len(messages) < 50 || len(by) == 0 {
		t.Errorf("%d DHCP messages, answers of %d servers: this proves nothing", len(messages), len(by))
	}
	together := time.Time{} // since when both serve
	for _, at := range first {
		if at.After(together) {
			together = at
		}
	}
	answering := map[string]int{}
	for _, m := range messages {
		if m.Reply && len(first) > 1 && m.Time.After(together.Add(time.Second)) {
			answering[m.ServerID.String()]++
		}
	}
	if len(answering) > 1 {
		t.Errorf("a second after both had begun, both answer: %v", answering)
	}
	t.Logf("%d answers beside another server's within that second", len(lab.DoubleAnswers(messages)))
}

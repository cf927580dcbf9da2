package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offshoot/node/status"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// printed is what a print function writes, without the blanks that end a line.
func printed(t *testing.T, write func(io.Writer) error) string {
	t.Helper()
	var out bytes.Buffer
	if err := write(&out); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return strings.Join(lines, "\n") + "\n"
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), got); diff != "" {
		t.Error(diff)
	}
}

func TestStatusSaysProblemsFirst(t *testing.T) {
	t.Parallel()
	s := status.Status{
		Swarm: "5eed", Version: "v1", Time: noon, Asked: "m1", Leader: "m1", Quorum: true,
		Problems: []status.Problem{{What: "machine m2 is held: disk: none", Next: "offshoot machine why 52:54:00:00:00:02"}},
		Nodes: []status.Node{
			{Name: "seed", State: status.NodeGone, Role: "learner", Address: "192.168.42.1:7400", Joined: noon.Add(-2 * time.Hour)},
			{Name: "m1", State: status.NodeAlive, Role: "leader", Durable: true, Warm: true, Address: "192.168.42.17:7400", Duties: []string{"s1", "s2"}, Joined: noon.Add(-time.Hour)},
		},
		Segments: []status.Segment{
			{ID: "s1", Network: "192.168.42.0/24", Mode: "proxy", Beside: "another DHCP server", Holder: "m1", Next: "m2", Term: 3, Since: noon.Add(-time.Minute), Nodes: []string{"seed", "m1"}, Leases: 2},
			{ID: "s2", Network: "10.42.0.0/24", Mode: "full", Holder: "m1", Term: 4, Since: noon.Add(-time.Minute), Blocked: "another DHCP server"},
		},
		Machines: []status.Machine{
			{Name: "m2", MAC: "52:54:00:00:00:02", State: "held", Reason: "disk: none", Segment: "s1", Address: "192.168.42.18", Profile: "debian13"},
			{Name: "m3", MAC: "52:54:00:00:00:03", State: "installing", Phase: "image", Percent: 42, Segment: "s1"},
		},
	}
	got := printed(t, func(w io.Writer) error { return printStatus(w, s) })
	same(t, got, `
PROBLEM  machine m2 is held: disk: none
   next: offshoot machine why 52:54:00:00:00:02
swarm 5eed, led by m1, can decide; asked m1, offshoot v1

NODE  STATE  KIND     LEDGER   DUTY   ARTIFACTS  ADDRESS             AGE
seed  gone   seed     learner  -      cold       192.168.42.1:7400   2h00m
m1    alive  durable  leader   s1,s2  warm       192.168.42.17:7400  1h00m

SEGMENT  NETWORK          MODE           DUTY     TERM  FOR    NODES    LEASES
s1       192.168.42.0/24  proxy for now  m1 → m2  3     1m00s  seed,m1  2
s2       10.42.0.0/24     full           BLOCKED  4     1m00s  -        0

MACHINE  MAC                STATE       DOING       SEGMENT  ADDRESS        PROFILE
m2       52:54:00:00:00:02  held        disk: none  s1       192.168.42.18  debian13
m3       52:54:00:00:00:03  installing  image 42 %  s1       -              -
`)
}

func TestStatusSaysHowFarANewCAHasCome(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]status.CAChange{
		"\nthe swarm's CA is being replaced: 0 of 3 nodes have new certificates, 1 know the new CA; missing: m2, m3\n\n": {Nodes: 3, Know: 1, Missing: []string{"m2", "m3"}},
		"\nthe swarm's CA is being replaced: 2 of 3 nodes have new certificates; missing: m3\n\n":                        {Nodes: 3, Know: 3, Renewed: 2, Missing: []string{"m3"}},
	} {
		got := printed(t, func(w io.Writer) error { return printStatus(w, status.Status{CA: &c}) })
		if !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestStatusSaysTheLimitOfUplinks(t *testing.T) {
	t.Parallel()
	const want = "\neach node exchanges artifacts with nodes of other segments at 20MB/s at most, each way\n\n"
	for limit, says := range map[int64]bool{20_000_000: true, 0: false} {
		got := printed(t, func(w io.Writer) error {
			return printStatus(w, status.Status{Settings: status.Settings{UplinkLimit: limit}})
		})
		if strings.Contains(got, want) != says {
			t.Errorf("%d: %s", limit, got)
		}
	}
}

func TestStatusSaysThatNobodyLeads(t *testing.T) {
	t.Parallel()
	got := printed(t, func(w io.Writer) error {
		return printStatus(w, status.Status{Swarm: "5eed", Asked: "m1", Version: "v1"})
	})
	if !strings.HasPrefix(got, "swarm 5eed, led by nobody, CANNOT DECIDE (no quorum); asked m1, offshoot v1\n") {
		t.Errorf("got %s", got)
	}
}

func TestTimelineCountsFromItsFirstEventAndMarksWarnings(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.Local)
	got := printed(t, func(w io.Writer) error {
		return printTimeline(w, []status.Event{
			{Time: at, Node: "seed", Kind: "seen", Text: "m1 showed itself"}, {Time: at.Add(90500 * time.Millisecond), Kind: "held", Text: "m1 is held", Warn: true},
		})
	})
	same(t, got, `
TIME      AFTER   SEEN-BY  EVENT  WHAT
12:00:00  +0.0s   seed     seen   m1 showed itself
12:01:30  +90.5s  -        !held  m1 is held
`)
	if empty := printed(t, func(w io.Writer) error { return printTimeline(w, nil) }); !strings.HasPrefix(empty, "TIME") {
		t.Errorf("got %q", empty)
	}
}

func TestTracesSayTheAnswerOrTheReasonForSilence(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.Local)
	got := printed(t, func(w io.Writer) error {
		return printTraces(w, "52:54:00:00:00:01", []status.Trace{
			{Time: at, Node: "m1", Proto: "dhcp", What: "DISCOVER", Answer: "OFFER 192.168.42.17"},
			{Time: at, Node: "m1", Proto: "http", What: "GET install", Reason: "403: not armed"},
			{Time: at, Node: "m1", Proto: "dhcp", What: "REQUEST", Answer: "NAK", Reason: "wrong network"},
		})
	})
	same(t, got, `
TIME          NODE  BY    WHAT         ANSWER
12:00:00.000  m1    dhcp  DISCOVER     OFFER 192.168.42.17
12:00:00.000  m1    http  GET install  silence: 403: not armed
12:00:00.000  m1    dhcp  REQUEST      NAK (wrong network)
`)
	got = printed(t, func(w io.Writer) error { return printTraces(w, "52:54:00:00:00:01", nil) })
	if !strings.Contains(got, "52:54:00:00:00:01") || !strings.Contains(got, "check cable") {
		t.Errorf("got %q", got)
	}
}

func TestLeasesSayHowLongTheyLast(t *testing.T) {
	t.Parallel()
	got := printed(t, func(w io.Writer) error {
		return printLeases(w, []status.Lease{
			{Segment: "s1", Address: "192.168.42.17", MAC: "52:54:00:00:00:01", Name: "m1", State: status.LeasePermanent, Class: "node"},
			{Segment: "s1", Address: "192.168.42.18", MAC: "52:54:00:00:00:02", State: status.LeaseBound, Reserved: true, Class: "os", Hostname: "laptop", Expires: noon.Add(90 * time.Minute)},
			{Segment: "s1", Address: "192.168.42.19", MAC: "52:54:00:00:00:03", State: status.LeaseExpired, Expires: noon.Add(-time.Minute)},
			{Segment: "s1", Address: "192.168.42.20", MAC: "52:54:00:00:00:04", State: status.LeaseReserved, Reserved: true},
		}, noon)
	})
	same(t, got, `
ADDRESS        SEGMENT  MAC                MACHINE  STATE           LEFT   CLIENT  CALLS-ITSELF
192.168.42.17  s1       52:54:00:00:00:01  m1       permanent       -      node    -
192.168.42.18  s1       52:54:00:00:00:02  -        bound,reserved  1h30m  os      laptop
192.168.42.19  s1       52:54:00:00:00:03  -        expired         -      -       -
192.168.42.20  s1       52:54:00:00:00:04  -        reserved        -      -       -
`)
}

func TestEvictionIsShownWithItsRisks(t *testing.T) {
	t.Parallel()
	e := status.Eviction{Node: status.Node{Name: "m2", ID: "a2", Durable: true, MAC: "52:54:00:00:00:02"}, Duties: []status.Passing{{Segment: "s1", Heirs: []string{"m3", "m4"}}}, Risks: []string{"nobody serves s2"}}
	got := printed(t, func(w io.Writer) error { return printEviction(w, e) })
	same(t, got, `
evicting m2 (a2) would mean:
  - its certificate is revoked: every node ends its connections to it and speaks to it no more
  - the gossip key is changed, so that it hears nothing new
  - segment s1: m3 or m4 takes over, within 10 s
  - it never comes back as it is; to use the machine again, install it: offshoot machine arm --wipe 52:54:00:00:00:02
  RISK, needs --force: nobody serves s2
`)
}

// Names, reasons and progress come from machines that proved nothing.
func TestWordsOfAMachineCannotCommandTheTerminal(t *testing.T) {
	t.Parallel()
	evil := "\x1b]0;owned\a\x1b[2J\r\nm9\t52:54:00:00:00:09\tinstalled"
	for name, write := range map[string]func(io.Writer) error{
		"machine": func(w io.Writer) error {
			return printMachines(w, status.Status{Machines: []status.Machine{{Name: "m1", Reason: evil}}})
		},
		"timeline": func(w io.Writer) error { return printTimeline(w, []status.Event{{Text: evil}}) },
		"traces":   func(w io.Writer) error { return printTraces(w, "52:54:00:00:00:01", []status.Trace{{What: evil}}) },
		"leases": func(w io.Writer) error {
			return printLeases(w, []status.Lease{{Hostname: evil, Name: evil}}, noon)
		},
		"tickets": func(w io.Writer) error { return printTickets(w, []status.Ticket{{Name: evil}}) },
		"audit": func(w io.Writer) error {
			return printAudit(w, []status.AuditEntry{{Actor: evil, Text: evil, Refused: evil}})
		},
		"operators": func(w io.Writer) error { return printOperators(w, []status.Operator{{Name: evil}}) },
		"segments": func(w io.Writer) error {
			return printSegments(w, status.Status{Segments: []status.Segment{{Holder: evil, Next: evil}}})
		},
		"eviction": func(w io.Writer) error {
			return printEviction(w, status.Eviction{Node: status.Node{Name: evil}, Risks: []string{evil}})
		},
		"problem": func(w io.Writer) error {
			return printStatus(w, status.Status{Problems: []status.Problem{{What: evil, Next: evil}}})
		},
	} {
		var out bytes.Buffer
		if err := write(&out); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(out.String(), "\x1b\a\r\t") || strings.Contains(out.String(), "\nm9") {
			t.Errorf("%s: %q", name, out.String())
		}
	}
}

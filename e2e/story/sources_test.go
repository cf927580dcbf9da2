package story

import (
	"strings"
	"testing"

	"offshoot/node/status"
)

// TestSourcesSayHowTheImageCame: the table of the demo, and a sentence for each node that has the image.
func TestSourcesSayHowTheImageCame(t *testing.T) {
	t.Parallel()
	says := func(total, image status.Traffic) status.Status {
		return status.Status{
			Exchange:  status.Exchange{Bytes: total},
			Artifacts: []status.Artifact{{Name: "vmlinuz", Size: 9e6}, {Name: "debian13.raw.zst", Size: 150e6, Bytes: image}},
		}
	}
	got := func(r status.Received) status.Traffic { return status.Traffic{Received: r} }
	installed := func(account string) status.Machine {
		return status.Machine{Timeline: []status.Event{
			{Kind: "boot", Text: "image"}, {Kind: "install", Text: "failed: attempt 1 of 3: image: gone"}, {Kind: "install", Text: "configure: image: " + account},
		}}
	}
	r := Report{
		Image: "debian13.raw.zst",
		Nodes: map[string]status.Status{
			"seed": says(status.Traffic{Received: status.Received{Disk: 200e6}, Sent: status.Sent{Segment: 201e6, Boot: 210.4e6, Install: 300e6}}, got(status.Received{Disk: 150e6})),
			"m1":   says(got(status.Received{Segment: 200e6}), got(status.Received{Segment: 150e6})),
			"m2":   says(got(status.Received{Segment: 100e6, Uplink: 100e6}), got(status.Received{Segment: 50e6, Uplink: 100e6})),
			"m4":   {},
		},
		Machines: map[string]status.Machine{"m1": installed("150.0 MB by HTTP"), "m2": installed("150.0 MB in pieces, 0 B by HTTP, 9.0 MB given to others")},
	}
	var lines []string
	for line := range strings.Lines(r.Sources()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"MB disk segment uplink upstream → segment → uplink → boot → install",
		"m1 0.0 200.0 0.0 0.0 0.0 0.0 0.0 0.0",
		"m2 0.0 100.0 100.0 0.0 0.0 0.0 0.0 0.0",
		"m4 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0",
		"seed 200.0 0.0 0.0 0.0 201.0 0.0 210.4 300.0",
		"",
		"the image (150.0 MB) came to m1: to its disk 150.0 MB by HTTP; 150.0 MB to its store from nodes of its segment",
		"the image (150.0 MB) came to m2: to its disk 150.0 MB in pieces, 0 B by HTTP, 9.0 MB given to others; 50.0 MB to its store from nodes of its segment; 100.0 MB to its store across an uplink",
		"the image (150.0 MB) came to seed: 150.0 MB to its store from its own disk",
	}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

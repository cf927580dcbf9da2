package main

import (
	"bytes"
	"strings"
	"testing"

	"offshoot/node/status"
)

// TestWhatDetectPrintsSeedTakes: every value comes back as it was, however strange.
func TestWhatDetectPrintsSeedTakes(t *testing.T) {
	strange := map[string]string{"name": "yes", "live-args": `quiet "a: b" #c`, "disk": "size>=10G", "password-hash": "$6$a$b", "ssh-key": "~/.ssh/id.pub", "interface": "0x1f,eth2"}
	seed := seedCommand(t)
	for key, value := range strange {
		if err := seed.Flags().Lookup(key).Value.Set(value); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	d := status.Detection{Ports: []status.DetectedPort{{Name: "eth1", Verdict: status.VerdictRefuses, Why: "because\nof: this"}}, Config: configValues(seed)}
	if err := printConfig(&out, seed, d); err != nil {
		t.Fatal(err)
	}
	all, err := parseConfig("x.yaml", out.Bytes())
	if err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	again := seedCommand(t)
	if _, err := applyConfig(again, "x.yaml", all); err != nil {
		t.Fatal(err)
	}
	for _, key := range configKeys {
		if a, b := seed.Flags().Lookup(key).Value.String(), again.Flags().Lookup(key).Value.String(); a != b {
			t.Errorf("%s: %q came back as %q", key, a, b)
		}
	}
	if len(all) < len(strange) || strings.Contains(out.String(), "dry-run") {
		t.Errorf("printed\n%s", out.String())
	}
}

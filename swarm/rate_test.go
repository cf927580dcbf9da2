package swarm

import (
	"strings"
	"testing"
)

func TestRatesAreReadAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Rate{
		"20MB/s": 20_000_000, "500kB/s": 500_000, "100Mbit/s": 12_500_000, "1.5MB/s": 1_500_000, " 2 GB/s ": 2_000_000_000, "10000B/s": 10_000,
		"1MiB/s": 1 << 20, "64KiB/s": 64 << 10, "0.5GiB/s": 1 << 29, "800kbit/s": 100_000, "10Gbit/s": 1_250_000_000, "1000GB/s": maxRate,
	} {
		got, err := ParseRate(text)
		if err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
		if again, err := ParseRate(got.String()); err != nil || again != got {
			t.Errorf("%q is shown as %q, which is %d, %v", text, got, again, err)
		}
	}
	for rate, want := range map[Rate]string{0: "none", 20_000_000: "20MB/s", 12_500_000: "12500kB/s", 1 << 20: "1048576B/s", 3_000_000_000: "3GB/s"} {
		if got := rate.String(); got != want {
			t.Errorf("%d is shown as %q, want %q", rate, got, want)
		}
	}
}

func TestWhatIsNoRateIsSaid(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"": "no rate", "fast": "no rate", "MB/s": "no rate", "-1MB/s": "no rate", "1.2.3MB/s": "no rate", ".": "no rate", "NaNMB/s": "no rate", "none": "no rate",
		"20": "unit", "20MB": "unit", "20mb/s": "unit", "20Mb/s": "unit", "20MBps": "unit", "1e9B/s": "unit", "0x10MB/s": "unit", "20KB/s": "unit", "1_000MB/s": "unit",
		"0MB/s": "10kB/s", "9999B/s": "10kB/s", "1001GB/s": "1000GB/s", "79kbit/s": "10kB/s", strings.Repeat("9", 400) + "B/s": "no rate",
		strings.Repeat("9", 300) + "GB/s": "1000GB/s",
	} {
		rate, err := ParseRate(text)
		if err == nil || !strings.Contains(err.Error(), says) || len(err.Error()) > 300 {
			t.Errorf("%.40q: %d, %v, want it to say %q", text, rate, err, says)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	f.Add("20MB/s")
	f.Add("1.5 GiB/s")
	f.Fuzz(func(t *testing.T, text string) {
		rate, err := ParseRate(text)
		if err != nil {
			return
		}
		if why := rate.check(minRate); why != "" {
			t.Errorf("%q is read, and %s", text, why)
		}
		if again, err := ParseRate(rate.String()); err != nil || again != rate {
			t.Errorf("%q is %d, shown as %q: %d, %v", text, rate, rate, again, err)
		}
	})
}

func TestLimitOfUplinksIsSetAndTakenAway(t *testing.T) {
	h := founded(t)
	limit := func() Rate { s, _ := h.s.View().Settings(); return s.UplinkLimit }
	if limit() != 0 {
		t.Errorf("a new swarm has a limit of %s", limit())
	}
	for _, want := range []Rate{20_000_000, MinUplinkLimit, maxRate} {
		h.must(seedID, SetUplinkLimit{want})
		for _, bad := range []Rate{-1, 1, MinUplinkLimit - 1, maxRate + 1} {
			h.refused(seedID, SetUplinkLimit{bad}, ErrInvalid)
		}
		if limit() != want {
			t.Errorf("%s, want %s", limit(), want)
		}
	}
	h.must(seedID, SetUplinkLimit{})
	if limit() != 0 {
		t.Errorf("it is still %s", limit())
	}
	if got, want := (SetUplinkLimit{20_000_000}).words(), "set the limit of uplinks to 20MB/s"; got != want {
		t.Errorf("the audit log says %q, want %q", got, want)
	}
}

//go:build wire

package lab

import (
	"errors"
	"net"
	"testing"
	"time"
)

// ping says whether one host reaches another now.
func ping(t *testing.T, from *Host, to string) bool {
	t.Helper()
	_, err := from.Run(t.Context(), "ping", "-n", "-q", "-c", "1", "-W", "1", to)
	return err == nil
}

func TestDisturbedCableCutsOffSomeNeighboursAndCalmHealsIt(t *testing.T) {
	Need(t, "ping")
	p := twoHosts(t)
	c := must[*Host](t)(p.lab.Host("c", p.lan))
	mustRun(t, c, "ip", "addr", "add", "192.0.2.3/24", "dev", "lan0")
	split := Weather{Deaf: []net.HardwareAddr{p.b.MAC(p.lan)}}
	if err := p.a.Disturb(p.lan, 1, split, split); err != nil {
		t.Fatal(err)
	}
	if !ping(t, p.a, "192.0.2.3") {
		t.Error("a does not reach c, which is not cut off")
	}
	if ping(t, p.a, "192.0.2.2") || ping(t, p.b, "192.0.2.1") {
		t.Error("a and b reach each other, though they are cut off")
	}
	if err := p.a.Disturb(p.lan, 1, Weather{Delay: 100 * time.Millisecond}, Weather{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error { // a host that did not answer ARP is left alone for a while
		if !ping(t, p.a, "192.0.2.2") {
			return errors.New("a does not reach b over a slow cable")
		}
		return nil
	})
	began := time.Now()
	if !ping(t, p.a, "192.0.2.2") {
		t.Error("a does not reach b again")
	}
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("a round trip over a cable that delays by 100 ms took %s", took)
	}
	if err := p.a.Calm(p.lan); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error {
		if !ping(t, p.a, "192.0.2.2") || !ping(t, p.b, "192.0.2.1") {
			return errors.New("a and b do not reach each other over a good cable")
		}
		return nil
	})
}

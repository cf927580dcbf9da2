package dhcp

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestCommitIsGivenUpWithTheDuty: a machine that asked just before the majority was lost is renewed when it asks again.
func TestCommitIsGivenUpWithTheDuty(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		had := b.lease()
		b.ledger.onBind = func(ctx context.Context, _ Binding) error { <-ctx.Done(); return ctx.Err() }
		renew := b.packet(request, has(had.YourIPAddr.String()))
		<-time.After(rightTick)
		if ack := b.say(renew); ack != nil {
			t.Fatal("answered without a commit")
		}
		b.setDuty(RenewOnly)
		<-time.After(rightTick)
		synctest.Wait()
		if !strings.Contains(b.lastReason(), "canceled") {
			t.Errorf("reason %q", b.lastReason())
		}
		b.link.in <- received{raw: renew.ToBytes(), unicast: true}
		synctest.Wait()
		if b.heard() == nil {
			t.Errorf("asked again without a majority: %q", b.lastReason())
		}
		b.ledger.onBind = nil
		b.setDuty(Full)
		<-time.After(rightTick)
		if ack := b.say(renew); ack == nil {
			t.Errorf("with full duty again: %q", b.lastReason())
		}
	})
}

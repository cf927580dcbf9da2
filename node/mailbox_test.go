package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"offshoot/node/internal/dhcp"
	"offshoot/node/internal/peer"
	"offshoot/swarm"
)

// street is a segment in memory: every house on it hears what is said to all.
type street struct {
	mu     sync.Mutex
	houses []*house
}

// house is a link that is plugged into it.
type house struct {
	in     chan letter
	closed chan struct{}
	once   sync.Once
}

func (s *street) say(words ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range words {
		for _, h := range s.houses {
			h.in <- letter{raw: []byte(w)}
		}
	}
}

func (s *street) plug(dhcp.Config) (dhcp.Link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &house{in: make(chan letter, mailMost), closed: make(chan struct{})}
	s.houses = append(s.houses, h)
	return h, nil
}

func (h *house) Receive(buf []byte) (int, bool, error) {
	select {
	case l := <-h.in:
		return copy(buf, l.raw), l.unicast, l.err
	case <-h.closed:
		return 0, false, net.ErrClosed
	}
}

func (h *house) Send([]byte, dhcp.Destination, net.HardwareAddr) error { return nil }

func (h *house) Close() error { h.once.Do(func() { close(h.closed) }); return nil }

// clerk answers what comes out of a mailbox, as the DHCP server of a post does.
type clerk struct {
	mail     *mailbox
	answered []string
	err      error // with which it ended
	ended    chan struct{}
}

func newClerk() *clerk { return &clerk{mail: newMailbox(), ended: make(chan struct{})} }

// open returns the link of the clerk's server.
func (c *clerk) open(t *testing.T, s *street) dhcp.Link {
	t.Helper()
	link, err := c.mail.listen(s.plug)(dhcp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// serve answers until the link ends, and closes it.
func (c *clerk) serve(link dhcp.Link) {
	defer close(c.ended)
	defer func() { _ = link.Close() }()
	buf := make([]byte, maxMail)
	for {
		n, _, err := link.Receive(buf)
		if err != nil {
			c.err = err
			return
		}
		c.answered = append(c.answered, string(buf[:n]))
	}
}

func raw(words ...string) (out [][]byte) {
	for _, w := range words {
		out = append(out, []byte(w))
	}
	return out
}

// moved is a state in which the duty on s1 has just been passed from the seed to nodeID, in term 2.
func moved(t *testing.T) *swarm.State {
	t.Helper()
	state := swarm.NewState()
	for _, op := range []swarm.Op{
		swarm.Found{
			Settings: swarm.Settings{Swarm: "5eed", Voters: 1, Profile: "p"}, Network: netip.MustParsePrefix("192.168.42.0/24"),
			Node: swarm.Node{ID: seedID, Name: "seed", Address: "192.168.42.1:7400", Ports: []swarm.Port{
				{Name: "lan0", MAC: "02:00:00:00:00:01", Link: true, Address: netip.MustParsePrefix("192.168.42.1/24")},
			}},
			Profile: &swarm.Profile{Name: "p", Driver: "image"},
		},
		swarm.SeeMachine{MAC: mac1, Segment: "s1"},
		swarm.ArmMachine{MAC: mac1},
		swarm.MintTicket{ID: "t", Hash: "hash", MAC: mac1, Segment: "s1", Addr: addr1, Expires: time.Now().Add(time.Hour)},
		swarm.RedeemTicket{ID: "t", Hash: "hash", Key: "key", MACs: []swarm.MAC{mac1}, Node: nodeID, Address: "192.168.42.17:7400"},
		swarm.OfferDuty{Segment: "s1", Term: 1, To: nodeID},
		swarm.PassDuty{Segment: "s1", Term: 1},
	} {
		if err := state.Apply(swarm.Command{ID: swarm.NewID(), Time: time.Now(), By: seedID, Op: op}).Err(); err != nil {
			t.Fatalf("%T: %v", op, err)
		}
	}
	return state
}

// neighbour is the way from the former holder to the next one.
type neighbour struct {
	calls
	next  *watch
	after func(delivery int)
	count int
}

func (n *neighbour) Deliver(ctx context.Context, _, segment string, term uint64, packets [][]byte) error {
	err := n.next.deliver(ctx, segment, term, packets)
	n.count++
	n.after(n.count)
	return err
}

func watchOf(state *swarm.State, id swarm.NodeID, c calls) *watch {
	return &watch{replica: &replica{state: state, self: func() swarm.NodeID { return id }}, client: c, log: quiet(), posts: map[uint64]*post{}}
}

// TestPacketsOfAHandoverAreAnsweredOnceByTheNextHolder says a packet at each of its moments.
func TestPacketsOfAHandoverAreAnsweredOnceByTheNextHolder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var lan street
		former, next := newClerk(), newClerk()
		go former.serve(former.open(t, &lan))
		lan.say("before")
		synctest.Wait()

		former.mail.keep()
		<-former.ended
		lan.say("nobody has the duty")
		synctest.Wait()

		state := moved(t)
		there := watchOf(state, nodeID, nil)
		way := &neighbour{next: there, after: func(delivery int) {
			if delivery == 1 { // the next holder says that it hears the segment, and the former one has not heard that yet
				lan.say("both hear it")
				synctest.Wait()
			}
		}}
		s, _ := state.View().Segment("s1")
		g := giver{watchOf(state, seedID, way), &post{segment: s, mail: former.mail}}
		delivered := make(chan struct{})
		go func() { defer close(delivered); g.Deliver(t.Context(), "s1") }()
		synctest.Wait()
		lan.say("the next post is not manned")
		there.mu.Lock()
		there.posts[s.Duty.Term] = &post{segment: s, mail: next.mail}
		there.mu.Unlock()
		<-time.After(time.Second)
		synctest.Wait()
		lan.say("the next post hears nothing yet")
		synctest.Wait()
		go next.serve(next.open(t, &lan))
		<-delivered
		lan.say("after")
		synctest.Wait()
		next.mail.close()
		<-next.ended

		if want := []string{"before"}; !slices.Equal(former.answered, want) || !errors.Is(former.err, io.EOF) {
			t.Errorf("the former holder answered %q, want %q; it ended with %v", former.answered, want, former.err)
		}
		want := []string{"after", "both hear it", "nobody has the duty", "the next post hears nothing yet", "the next post is not manned"}
		if slices.Sort(next.answered); !slices.Equal(next.answered, want) {
			t.Errorf("the next holder answered %q, want %q", next.answered, want)
		}
	})
}

func TestPacketThatBothHoldersHeardIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	for name, story := range map[string]struct {
		tell func(c *clerk, lan *street)
		want int
	}{
		"heard, then delivered": {func(c *clerk, lan *street) {
			lan.say("x")
			synctest.Wait()
			_ = c.mail.put(context.Background(), raw("x"))
		}, 1},
		"delivered, then heard": {func(c *clerk, lan *street) {
			_ = c.mail.put(context.Background(), raw("x"))
			lan.say("x")
		}, 1},
		"delivered twice": {func(c *clerk, _ *street) {
			_ = c.mail.put(context.Background(), raw("x", "x"))
		}, 1},
		"delivered, and said again by its machine": {func(c *clerk, lan *street) {
			_ = c.mail.put(context.Background(), raw("x"))
			<-time.After(echoTime)
			lan.say("x")
		}, 2},
		"said twice by its machine": {func(_ *clerk, lan *street) { lan.say("x", "x") }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var lan street
				c := newClerk()
				go c.serve(c.open(t, &lan))
				story.tell(c, &lan)
				synctest.Wait()
				c.mail.close()
				<-c.ended
				if len(c.answered) != story.want {
					t.Errorf("answered %q, want %d", c.answered, story.want)
				}
			})
		})
	}
}

// TestDutyThatMovesOnAtOnceLosesNothing: what was delivered is answered here or kept for the one after.
func TestDutyThatMovesOnAtOnceLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var lan street
		c := newClerk()
		link := c.open(t, &lan)
		var inTime []string
		for i := range 20 { // a select among several draws lots
			heard, delivered := fmt.Sprint("heard ", i), fmt.Sprint("delivered ", i)
			lan.say(heard)
			if err := c.mail.put(t.Context(), raw(delivered)); err != nil {
				t.Fatal(err)
			}
			inTime = append(inTime, heard, delivered)
		}
		synctest.Wait()
		c.mail.keep()
		lan.say("heard late")
		lan.houses[0].in <- letter{raw: []byte("said to this node alone"), unicast: true}
		synctest.Wait()
		if err := c.mail.put(t.Context(), raw("delivered late")); err != nil {
			t.Fatal(err)
		}
		c.serve(link)
		slices.Sort(c.answered)
		if slices.Sort(inTime); !slices.Equal(c.answered, inTime) || !errors.Is(c.err, io.EOF) {
			t.Errorf("answered %q, want %q; ended with %v", c.answered, inTime, c.err)
		}
		var kept []string
		for _, packet := range c.mail.take() {
			kept = append(kept, string(packet))
		}
		if want := []string{"heard late", "delivered late"}; !slices.Equal(kept, want) || len(c.mail.take()) != 0 {
			t.Errorf("kept %q, want %q, and that once", kept, want)
		}
		c.mail.close()
	})
}

func TestClosedMailboxLetsGoOfItsLinkAndTakesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var lan street
		c := newClerk()
		early := make(chan error, 1)
		go func() { early <- c.mail.put(t.Context(), raw("x")) }()
		synctest.Wait() // it waits for a post that hears something
		c.mail.close()
		if err := <-early; !errors.Is(err, errPostLeft) {
			t.Errorf("a delivery that waited ended with %v", err)
		}
		bounded, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := newMailbox().put(bounded, raw("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a delivery to a post that never hears anything ended with %v", err)
		}

		for _, keeping := range []bool{false, true} {
			c := newClerk()
			go c.serve(c.open(t, &lan))
			synctest.Wait()
			if keeping {
				c.mail.keep()
				<-c.ended
			}
			c.mail.close()
			c.mail.close() // by who delivers, and by the post
			for range 20 { // a select among two draws lots
				if err := c.mail.put(t.Context(), raw("x")); !errors.Is(err, errPostLeft) {
					t.Fatalf("keeping %t: a delivery to a closed mailbox: %v", keeping, err)
				}
			}
			<-c.ended
			if len(c.answered) > 0 {
				t.Errorf("answered %q", c.answered)
			}
		}
		for i, h := range lan.houses {
			select {
			case <-h.closed:
			default:
				t.Errorf("link %d is open", i)
			}
		}
	})
}

func TestServerThatFailedGoesOnWithWhatWasDelivered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var lan street
		broken := errors.New("network is down")
		first := newClerk()
		go first.serve(first.open(t, &lan))
		lan.houses[0].in <- letter{err: broken}
		<-first.ended
		if !errors.Is(first.err, broken) {
			t.Errorf("ended with %v", first.err)
		}
		if err := first.mail.put(t.Context(), raw("x")); err != nil {
			t.Fatal(err)
		}
		again := &clerk{mail: first.mail, ended: make(chan struct{})}
		go again.serve(again.open(t, &lan))
		lan.say("y")
		synctest.Wait()
		again.mail.close()
		<-again.ended
		slices.Sort(again.answered)
		if want := []string{"x", "y"}; !slices.Equal(again.answered, want) {
			t.Errorf("answered %q, want %q", again.answered, want)
		}
	})
}

func TestDeliveryForAnotherTermIsRefusedOrWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watchOf(moved(t), nodeID, nil)
		bounded, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.deliver(bounded, "s1", 1, raw("x")); !errors.Is(err, peer.ErrRefused) {
			t.Errorf("for a term that is over: %v", err)
		}
		if err := w.deliver(bounded, "s1", 3, raw("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("for a term that this node does not know yet: %v", err)
		}
	})
}

package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestTicketRoundTrip(t *testing.T) {
	a := NewTicket()
	b, err := ParseTicket(a.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if a.ID() != b.ID() || a.Hash() != b.Hash() || !b.Matches(a.Hash()) || len(a.Hash()) != 64 {
		t.Errorf("%v and %v differ", a, b)
	}
	if NewTicket().Matches(a.Hash()) || a.Matches("") || (Ticket{}).Matches("") || (Ticket{}).Matches((Ticket{}).Hash()) {
		t.Error("a ticket matches what it must not")
	}
}

func TestTicketParseIsStrict(t *testing.T) {
	good := NewTicket().Reveal()
	for _, s := range []string{
		"", "os1", "os1..", good + " ", " " + good, good + "\n", good + ".", "os2" + good[3:], strings.ToUpper(good[:20]) + good[20:],
		good[:len(good)-1], good + "A", good[:len(good)-2] + "\n" + good[len(good)-1:], good[:len(good)-1] + "=",
		good[:len(good)-1] + "_", // the last letter carries 2 bits: a second spelling of the same secret
		"os1.0123456789abcde." + good[21:], "os1.../.secret",
	} {
		if _, err := ParseTicket(s); err == nil {
			t.Errorf("%q is taken for a ticket", s)
		} else if len(s) > 30 && strings.Contains(err.Error(), s[20:30]) {
			t.Errorf("error quotes the ticket: %v", err)
		}
	}
}

// Every way to print, however deep the value lies, shows names only.
func TestSecretsAreNeverPrinted(t *testing.T) {
	ticket, key := NewTicket(), NewGossipKey()
	ca := newCA(t, "alpha")
	id := member(t, ca, Options{})
	caKey, err := ca.ExportKey()
	if err != nil {
		t.Fatal(err)
	}
	type hidden struct { // fmt may not call methods on unexported fields
		t Ticket
		k Key
		c *CA
		i *Identity
	}
	csr, err := id.CSR()
	if err != nil {
		t.Fatal(err)
	}
	req := RedeemRequest{Ticket: ticket, CSR: csr}
	resp := RedeemResponse{GossipKeys: []Key{key}}
	box, err := NewBox("hello", key)
	if err != nil {
		t.Fatal(err)
	}
	values := []any{
		ticket, &ticket, key, &key, []Key{key}, map[string]Ticket{"t": ticket}, req, &req, resp, &resp, ca, *ca, id, box,
		hidden{ticket, key, ca, id}, &hidden{ticket, key, ca, id}, []any{ticket, key, ca, id},
	}
	ticketSecret := ticket.secret()
	secrets := [][]byte{ticketSecret[:], key.Reveal(), []byte(ca.key())[:32], []byte(id.key())[:32]}
	var forms []string
	for _, s := range secrets {
		forms = append(forms, fmt.Sprintf("%x", s), fmt.Sprintf("%X", s), strings.Trim(fmt.Sprint(s), "[]"),
			strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", s), "[]byte{"), "}"), string(s))
	}
	forms = append(forms, key.Encode(), strings.Split(ticket.Reveal(), ".")[2], string(caKey))
	for i, v := range values {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			_, _ = fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v, slog.Group("g", "v", v))
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v, slog.Group("g", "v", v))
		if data, err := json.Marshal(v); err == nil {
			out.Write(data)
		}
		for _, secret := range forms {
			if strings.Contains(out.String(), secret) {
				t.Errorf("value %d (%T) shows a secret", i, v)
			}
		}
	}
	if !strings.Contains(fmt.Sprint(ticket), ticket.ID()) {
		t.Error("a printed ticket should show its id")
	}
}

func FuzzParseTicket(f *testing.F) {
	f.Add(NewTicket().Reveal())
	f.Add("os1.0123456789abcdef.AAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, s string) {
		if ticket, err := ParseTicket(s); err == nil && ticket.Reveal() != s {
			t.Errorf("%q has a second spelling %q", s, ticket.Reveal())
		}
	})
}

func TestBoxOpensWithEveryKeyOfTheRing(t *testing.T) {
	older, newer, foreign := NewGossipKey(), NewGossipKey(), NewGossipKey()
	box := func(purpose string, keys ...Key) *Box {
		b, err := NewBox(purpose, keys...)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sealer := box("hello", older)
	frame := sealer.Seal([]byte("who is there"), []byte("from a"))
	if got, err := box("hello", newer, older).Open(frame, []byte("from a")); err != nil || string(got) != "who is there" {
		t.Errorf("during rotation: %q, %v", got, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"foreign key":     func() ([]byte, error) { return box("hello", foreign).Open(frame, []byte("from a")) },
		"other purpose":   func() ([]byte, error) { return box("gossip", older).Open(frame, []byte("from a")) },
		"other sender":    func() ([]byte, error) { return sealer.Open(frame, []byte("from b")) },
		"cut short":       func() ([]byte, error) { return sealer.Open(frame[:len(frame)-1], []byte("from a")) },
		"a few bytes":     func() ([]byte, error) { return sealer.Open(frame[:5], []byte("from a")) },
		"nothing":         func() ([]byte, error) { return sealer.Open(nil, nil) },
		"changed":         func() ([]byte, error) { f := bytes.Clone(frame); f[20] ^= 1; return sealer.Open(f, []byte("from a")) },
		"newer does seal": func() ([]byte, error) { return sealer.Open(box("hello", newer, older).Seal(nil, nil), nil) },
	} {
		if _, err := open(); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if bytes.Equal(frame, sealer.Seal([]byte("who is there"), []byte("from a"))) {
		t.Error("two frames with the same nonce")
	}
	if _, err := NewBox("hello"); err == nil {
		t.Error("a box without keys")
	}
	if _, err := NewBox("hello", Key{}); err == nil {
		t.Error("a box with an empty key")
	}
}

func TestKeyRoundTrip(t *testing.T) {
	k := NewGossipKey()
	again, err := ParseKey(k.Encode())
	if err != nil || !bytes.Equal(again.Reveal(), k.Reveal()) || len(k.Reveal()) != 32 {
		t.Errorf("%v, %v", again, err)
	}
	for _, s := range []string{"", "short", k.Encode() + "A", k.Encode()[:42] + "\n"} {
		if _, err := ParseKey(s); err == nil {
			t.Errorf("%q is taken for a key", s)
		}
	}
}

func FuzzBoxOpen(f *testing.F) {
	box, err := NewBox("hello", NewGossipKey(), NewGossipKey())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(make([]byte, 40), []byte("a"))
	f.Fuzz(func(t *testing.T, frame, context []byte) {
		if _, err := box.Open(frame, context); err == nil {
			t.Error("opened what nobody sealed")
		}
	})
}

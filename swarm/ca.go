package swarm

import (
	"fmt"
	"slices"
	"strings"
)

// CAStage is how far the replacement of the swarm's authority has come. Each step waits until every node has taken the one
// before: at no moment are there two nodes of which one does not trust the other.
type CAStage string

// The stages of a replacement; the empty one is none.
const (
	CASpreading CAStage = "spread" // everybody learns to trust the new authority, which signs no node's certificate yet
	CAInUse     CAStage = "use"    // the new authority signs; nodes get their new certificates
)

// maxFormerCAs bounds how many replacements may run into each other.
const maxFormerCAs = 4

// Authority is what is public of a certificate authority.
type Authority struct {
	Certificate string `json:"certificate"` // PEM
	Pin         string `json:"pin"`         // "sha256:<hex>" of its public key
}

// Signer is the pin of the authority that signs nodes' certificates: the newest one that everybody trusts.
func (s Settings) Signer() string {
	if last := len(s.FormerCAs) - 1; s.CAStage == CASpreading && last >= 0 {
		return s.FormerCAs[last].Pin
	}
	return s.Pin
}

// Former says whether an authority is being replaced.
func (s Settings) Former(pin string) bool {
	return slices.ContainsFunc(s.FormerCAs, func(a Authority) bool { return a.Pin == pin })
}

// ReplaceCA begins to replace the swarm's authority. The leader proposes it, because it must hold the new key; the key is
// never in a command. Tickets name the pin of their time, so those that are open are revoked. During a replacement that
// nobody has a certificate of yet it takes the place of the new authority.
type ReplaceCA struct {
	CA     string `json:"ca"` // certificate, PEM
	Pin    string `json:"pin"`
	Reason string `json:"reason"`
}

func (o ReplaceCA) words() string {
	return fmt.Sprintf("replace the swarm's CA by %s: %s", clip(o.Pin, maxWord), clip(o.Reason, maxWord))
}

func (o ReplaceCA) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	digits, isPin := strings.CutPrefix(o.Pin, "sha256:")
	switch {
	case !ok:
		return nil, refuse(ErrNotFound, "the swarm's settings")
	case !isPin || len(digits) != 64 || o.CA == "" || len(o.CA) > 4096:
		return nil, refuse(ErrInvalid, "the new authority needs a certificate and a pin")
	case o.Pin == s.Pin || s.Former(o.Pin):
		return nil, refuse(ErrConflict, "%s is an authority of this swarm already", o.Pin)
	}
	for _, n := range c.view().Nodes() {
		// An old certificate will be believed only together with the key that is known here.
		if n.Eligible() && n.Key == "" {
			return nil, refuse(ErrConflict, "the key of node %s (%s) is not known: it would be cut off", n.ID, n.Name)
		}
	}
	if s.CAStage != CASpreading {
		if len(s.FormerCAs) >= maxFormerCAs {
			return nil, refuse(ErrFull, "%d authorities are being replaced: wait until every node has its new certificate, or evict those that are away", len(s.FormerCAs))
		}
		s.FormerCAs = append(slices.Clone(s.FormerCAs), Authority{s.CA, s.Pin})
	}
	s.CA, s.Pin, s.CAStage, s.CAGeneration = o.CA, o.Pin, CASpreading, s.CAGeneration+1
	c.put("settings", &s)
	for _, t := range c.view().AllTickets() {
		if t.State == TicketMinted || t.State == TicketFetched {
			c.revokeTicket(t, "the swarm's CA is being replaced, and it names the old one; the machine gets another one when it is armed again")
		}
	}
	c.alarm("", "ca", "the swarm's CA is being replaced, the new pin is %s: %s", s.Pin, clip(o.Reason, maxWord))
	return nil, nil
}

// AdvanceCA takes a replacement one step on, once every node has taken the present one. The leader proposes it, after every
// voter has the new authority's key.
type AdvanceCA struct {
	Generation uint64 `json:"generation"` // the present one
	// Key is a fresh gossip key, as identity.Key encodes it, that comes with the new authority. Whoever held the old
	// authority's key may have listened in until now, and hears no more.
	Key string `json:"key,omitempty"`
}

func (o AdvanceCA) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	if !ok || s.CAStage == "" || s.CAGeneration != o.Generation {
		return nil, refuse(ErrConflict, "the replacement of the CA is in generation %d, stage %q, not in %d", s.CAGeneration, s.CAStage, o.Generation)
	}
	if behind := c.view().CABehind(); len(behind) > 0 {
		return nil, refuse(ErrConflict, "node %s has not taken step %d of the replacement of the CA", behind[0].ID, o.Generation)
	}
	s.CAGeneration++
	if s.CAStage == CASpreading {
		s.CAStage = CAInUse
		c.put("settings", &s)
		c.event("", "ca", "the new CA signs: nodes get their new certificates (generation %d)", s.CAGeneration)
		return nil, c.rotate(o.Key, "the swarm has a new CA")
	}
	s.CAStage, s.FormerCAs = "", nil
	c.put("settings", &s)
	for _, n := range c.view().Nodes() {
		if n.Ended == "" && n.CA != o.Generation { // it had left, or is in quarantine
			c.end(n, "it got no new certificate when the swarm's CA was replaced")
		}
	}
	c.event("", "ca", "only certificates of the new CA are good now (generation %d)", s.CAGeneration)
	return nil, nil
}

// CABehind lists the nodes that a replacement of the CA waits for: all that are neither gone for good, nor have left, nor are
// in quarantine. Who is away is waited for too: it could not follow once the others have moved on. It is empty when none is
// under way.
func (v View) CABehind() []Node {
	s, ok := v.Settings()
	if !ok || s.CAStage == "" {
		return nil
	}
	var behind []Node
	for n := range each[Node](v.txn, "node", "id") {
		if n.Eligible() && n.CA != s.CAGeneration {
			behind = append(behind, *n)
		}
	}
	return behind
}

// Certificate is what was shown in a handshake, after it was found to be genuine.
type Certificate struct {
	Serial string
	Key    string // hex SHA-256 of its public key
	CA     string // pin of the authority that signed it
}

// distrust says why a genuine certificate is not believed for a holder whose key is known; "" is that it is. An authority that
// is being replaced is one whose key was stolen: what it signed counts only together with a key that is known from before.
//
// An authority that the ledger does not name is left to the handshake, which has looked: a node that has just joined reads the
// old decisions first.
func (v View) distrust(c Certificate, key string) string {
	s, _ := v.Settings()
	switch {
	case key != "" && key != c.Key:
		return fmt.Sprintf("certificate %s is for another key than its holder's", clip(c.Serial, maxWord))
	case key == "" && s.Former(c.CA):
		return fmt.Sprintf("certificate %s is of the CA that is being replaced, and its holder's key is not known", clip(c.Serial, maxWord))
	}
	return ""
}

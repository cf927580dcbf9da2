package swarm

import (
	"fmt"
	"slices"
	"time"
)

// The roles of operators: each may what the one before it may.
const (
	RoleView    = "view"    // look at everything
	RoleOperate = "operate" // machines: arm, hold, name; leases
	RoleAdmin   = "admin"   // the swarm itself: nodes, voters, keys, operators
)

// Operator is a person or a program with a certificate to ask this swarm.
type Operator struct {
	Name     string    `json:"name"`
	Role     string    `json:"role"`
	Serial   string    `json:"serial"` // of the certificate; no other one is accepted
	NotAfter time.Time `json:"not_after"`
	Added    time.Time `json:"added"`
	Revoked  time.Time `json:"revoked,omitzero"`
	Key      string    `json:"key,omitempty"` // hex SHA-256 of its public key
	CA       string    `json:"ca,omitempty"`  // pin of the authority that signed it
}

// AddOperator accepts a certificate that was signed for an operator. A name can be used again once its certificate was
// revoked, or is over, or is of a CA that was replaced, with a fresh one. The value is the Operator.
type AddOperator struct {
	Name     string    `json:"name"`
	Role     string    `json:"role"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	Key      string    `json:"key,omitempty"` // hex SHA-256 of its public key
	CA       string    `json:"ca,omitempty"`  // pin of the authority that signed it
}

func (o AddOperator) words() string {
	return fmt.Sprintf("add operator %s with role %s", o.Name, o.Role)
}

func (o AddOperator) apply(c *change) (any, error) {
	if err := checkName("operator", o.Name); err != nil {
		return nil, err
	}
	if !slices.Contains([]string{RoleView, RoleOperate, RoleAdmin}, o.Role) {
		return nil, refuse(ErrInvalid, "role %q: want %s, %s or %s", o.Role, RoleView, RoleOperate, RoleAdmin)
	}
	if o.Serial == "" || max(len(o.Serial), len(o.Key), len(o.CA)) > maxWord || !c.Time.Before(o.NotAfter) {
		return nil, refuse(ErrInvalid, "operator %s needs a certificate that is good still", o.Name)
	}
	if old, ok := c.view().Operator(o.Name); ok {
		if old.Revoked.IsZero() && c.Time.Before(old.NotAfter) && !c.view().Outdated(old) {
			return nil, refuse(ErrConflict, "operator %s has a certificate until %s: revoke it first", o.Name, old.NotAfter.UTC().Format(time.RFC3339))
		}
		if old.Serial == o.Serial {
			return nil, refuse(ErrConflict, "certificate %s of operator %s is over: it does not come back", o.Serial, o.Name)
		}
	}
	p := &Operator{Name: o.Name, Role: o.Role, Serial: o.Serial, NotAfter: o.NotAfter, Added: c.Time, Key: o.Key, CA: o.CA}
	c.put("operator", p)
	c.event("", "operator", "operator %s may %s until %s", p.Name, p.Role, p.NotAfter.UTC().Format(time.RFC3339))
	return *p, nil
}

// RevokeOperator ends an operator's certificate at once.
type RevokeOperator struct {
	Name string `json:"name"`
}

func (o RevokeOperator) words() string { return fmt.Sprintf("revoke operator %s", o.Name) }

func (o RevokeOperator) apply(c *change) (any, error) {
	p, ok := c.view().Operator(o.Name)
	if !ok {
		return nil, refuse(ErrNotFound, "operator %q", clip(o.Name, maxWord))
	}
	if !p.Revoked.IsZero() {
		return nil, nil
	}
	p.Revoked = c.Time
	c.put("operator", &p)
	c.event("", "operator", "operator %s was revoked", p.Name)
	return nil, nil
}

// Outdated says whether an operator's certificate is of an authority that was replaced, or is being replaced.
func (v View) Outdated(p Operator) bool {
	s, _ := v.Settings()
	return p.CA != s.Pin
}

// Refused says why a node's certificate is not accepted; "" is good standing. A node that is not known here is accepted, unless
// the CA is being replaced: the authority signed for it, and whoever was away must be able to hear from nodes that joined
// meanwhile.
func (v View) Refused(node NodeID, shown Certificate) string {
	n, _ := v.Node(node)
	if n.Ended != "" {
		return fmt.Sprintf("certificate %s was revoked: node %s (%s) has ended: %s", shown.Serial, n.ID, n.Name, n.Ended)
	}
	return v.distrust(shown, n.Key)
}

// RefusedOperator says why an operator's certificate is not accepted; "" is good standing. Who is not known is refused: an
// operator can ask elsewhere, or again. That a certificate is over by its own date is for TLS to see.
func (v View) RefusedOperator(name string, shown Certificate) string {
	p, ok := v.Operator(name)
	switch {
	case !ok:
		return fmt.Sprintf("operator %q is not known to this swarm", clip(name, maxWord))
	case p.Serial != shown.Serial:
		return fmt.Sprintf("certificate %s is not the present one of operator %s", clip(shown.Serial, maxWord), p.Name)
	case !p.Revoked.IsZero():
		return fmt.Sprintf("operator %s was revoked at %s", p.Name, p.Revoked.UTC().Format(time.RFC3339))
	}
	return v.distrust(shown, p.Key)
}

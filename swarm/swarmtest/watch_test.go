package swarmtest_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// watch holds the invariants.
type watch struct {
	mu         sync.Mutex
	chains     map[uint64]uint64    // by index: the hash of everything up to it
	by         map[uint64]string    // who was the first to say so
	leaders    map[uint64]string    // by term
	when       map[string]time.Time // by command: when the first node carried it out
	violations []string
}

func newWatch() *watch {
	return &watch{chains: map[uint64]uint64{}, by: map[uint64]string{}, leaders: map[uint64]string{}, when: map[string]time.Time{}}
}

func (w *watch) happened(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.when[id]; !ok {
		w.when[id] = time.Now()
	}
}

func (w *watch) violated(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violations = append(w.violations, fmt.Sprintf(format, args...))
}

// applied: the same commands in the same order at the same indexes, everywhere.
func (w *watch) applied(node string, index, chain uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if known, ok := w.chains[index]; ok && known != chain {
		w.violations = append(w.violations, fmt.Sprintf("%s applies another entry %d than %s", node, index, w.by[index]))
	} else if !ok {
		w.chains[index], w.by[index] = chain, node
	}
}

// leads: at most one leader in a term.
func (w *watch) leads(n *node) {
	term := n.ledger.Pulse().Term
	if !n.ledger.IsLeader() || n.ledger.Pulse().Term != term {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if other, ok := w.leaders[term]; ok && other != n.id {
		w.violations = append(w.violations, fmt.Sprintf("%s and %s lead in term %d", other, n.id, term))
	}
	w.leaders[term] = n.id
}

// shows tells whether some violation contains the text.
func (w *watch) shows(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.violations, func(v string) bool { return strings.Contains(v, text) })
}

func (w *watch) report() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.violations[:min(len(w.violations), 10)], "\n")
}

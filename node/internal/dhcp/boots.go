package dhcp

import (
	"sync"
	"time"

	"offshoot/swarm"
)

// Boots are the boots that a proxy has begun. It does not know the address that the machine gets from the server of others, so
// that its nonce is bound to the MAC alone, until the machine comes with it by HTTP. In memory only: when it is lost, or another
// node took the duty over between iPXE's DHCP and its script, the script is refused and the machine boots anew. Safe for
// concurrent use.
type Boots struct {
	mu    sync.Mutex
	begun map[string]begun     // by nonce
	last  map[swarm.MAC]string // nonce of the last one
}

type begun struct {
	mac swarm.MAC
	at  time.Time
}

const (
	// bootTime is how long iPXE may take from DHCP to its script: it waits half a minute for IPv6 routers alone.
	bootTime = 10 * time.Minute
	// oneBoot is how long further DISCOVERs of iPXE belong to the same boot: it waits a second, and two, and four.
	oneBoot = time.Minute
	// maxBoots bounds them: anybody can invent MAC addresses.
	maxBoots = 1 << 14
)

// NewBoots has begun none.
func NewBoots() *Boots {
	return &Boots{begun: map[string]begun{}, last: map[swarm.MAC]string{}}
}

// begin notes that iPXE on mac was told this nonce.
func (b *Boots) begin(now time.Time, mac swarm.MAC, nonce string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if before := b.last[mac]; before != nonce {
		delete(b.begun, before)
	}
	for other := range b.begun {
		if len(b.begun) < maxBoots {
			break
		}
		b.drop(other) // whichever: a flood hits itself, and who booted a moment ago has its script
	}
	b.begun[nonce], b.last[mac] = begun{mac, now}, nonce
}

// of is the nonce that a further packet of the same boot goes on with; "" begins a new one.
func (b *Boots) of(now time.Time, mac swarm.MAC) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	nonce := b.last[mac]
	if nonce == "" || now.Sub(b.begun[nonce].at) >= oneBoot {
		return ""
	}
	return nonce
}

// end says that the next boot of mac is another one: its firmware has asked.
func (b *Boots) end(mac swarm.MAC) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop(b.last[mac])
}

// MAC is the machine whose boot a nonce names.
func (b *Boots) MAC(now time.Time, nonce string) (swarm.MAC, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	boot, ok := b.begun[nonce]
	return boot.mac, ok && now.Sub(boot.at) < bootTime
}

// sweep forgets what is over.
func (b *Boots) sweep(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for nonce, boot := range b.begun {
		if now.Sub(boot.at) >= bootTime {
			b.drop(nonce)
		}
	}
}

func (b *Boots) drop(nonce string) {
	if boot, ok := b.begun[nonce]; ok {
		delete(b.begun, nonce)
		delete(b.last, boot.mac)
	}
}

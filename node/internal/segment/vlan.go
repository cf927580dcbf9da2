package segment

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

	"offshoot/swarm"
)

// Bounds of an 802.1Q id: 0 says that there is none, 4095 is kept.
const (
	minVLAN = 1
	maxVLAN = 4094
)

// CheckVLAN refuses what is no 802.1Q id.
func CheckVLAN(id int) error {
	if id < minVLAN || id > maxVLAN {
		return fmt.Errorf("VLAN %d: want %d to %d", id, minVLAN, maxVLAN)
	}
	return nil
}

// maxName is how long the kernel lets a name be.
const maxName = 15

// VLAN is the device for a VLAN on a port: the one that is there, else one that it makes, and undoing removes. The port is
// brought up for it.
func (j *Journal) VLAN(on Port, id uint16) (Port, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	ports, err := Ports()
	if err != nil {
		return Port{}, err
	}
	for _, p := range ports {
		if p.VLAN == id && p.MAC == on.MAC {
			return p, nil
		}
	}
	ids, err := j.raise(on)
	if err != nil {
		return Port{}, errors.Join(err, j.undo(ids))
	}
	name := fmt.Sprintf("%s.%d", on.Name, id)
	if len(name) > maxName {
		name = fmt.Sprintf("vlan%d", id)
	}
	if _, err := linkByName(name); !errors.Is(err, ErrNoPort) {
		return Port{}, errors.Join(fmt.Errorf("VLAN %d on %s: there is an interface %s already", id, on.Name, name), err, j.undo(ids))
	}
	made, err := j.do(change{Op: opVLAN, Port: name, MAC: on.MAC}, func() error { return addVLAN(name, on, id) })
	if ids = append(ids, made); err != nil {
		return Port{}, errors.Join(err, j.undo(ids))
	}
	p, err := PortByName(name)
	if err != nil {
		return Port{}, errors.Join(err, j.undo(ids))
	}
	return p, nil
}

func addVLAN(name string, on Port, id uint16) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = name, on.Index
	link := &netlink.Vlan{LinkAttrs: attrs, VlanId: int(id)}
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	made, err := linkByName(name)
	if err == nil && swarm.MACOf(made.Attrs().HardwareAddr) != on.MAC {
		err = fmt.Errorf("it has another MAC than %s", on.Name)
	}
	return err
}

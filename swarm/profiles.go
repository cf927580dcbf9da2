package swarm

import "fmt"

// PutProfile stores a profile under its name.
type PutProfile struct {
	Profile Profile `json:"profile"`
	Default bool    `json:"default"` // what unknown machines get from now on
}

func (o PutProfile) since() int {
	if o.Profile.LeaveBootOrder {
		return 3
	}
	return 1
}

func (o PutProfile) words() string {
	text := fmt.Sprintf("write profile %s down: image %s", o.Profile.Name, o.Profile.Image)
	if o.Default {
		text += ", for all unknown machines"
	}
	return text
}

func (o PutProfile) apply(c *change) (any, error) {
	if o.Profile.Name == "" {
		return nil, refuse(ErrInvalid, "a profile needs a name")
	}
	c.put("profile", &o.Profile)
	if settings, ok := c.view().Settings(); ok && o.Default {
		settings.Profile = o.Profile.Name
		c.put("settings", &settings)
	}
	return nil, nil
}

// Note writes an event that changes nothing else.
type Note struct {
	MAC  MAC    `json:"mac,omitempty"`
	Kind string `json:"kind"`
	Text string `json:"text"`
	Warn bool   `json:"warn,omitempty"`
}

func (o Note) apply(c *change) (any, error) {
	if o.MAC != "" && !o.MAC.valid() {
		return nil, refuse(ErrInvalid, "machine %q", clip(string(o.MAC), maxWord))
	}
	c.record(o.Warn, o.MAC, o.Kind, "%s", o.Text)
	return nil, nil
}

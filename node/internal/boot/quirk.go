package boot

import "strings"

// quirk is a model that starts its own disk in another way than firmware of its kind does as a rule.
type quirk struct {
	vendor, product string // SMBIOS; the model's begin with these, whatever the case
	generation      string // and its product contains this
	method          string // of OwnDisk
}

// quirks has only what was seen. Operators override it for one machine: offshoot machine set-own-disk.
var quirks = []quirk{
	// They hang when a boot program gives the machine back to the BIOS (redhat-cip/edeploy, issue 224).
	{vendor: "HP", product: "ProLiant", generation: "Gen8", method: "sanboot"},
}

// Quirk is the method by which a model starts its own disk, "" if it is like others.
func Quirk(vendor, product string) string {
	begins := func(s, with string) bool { return strings.HasPrefix(strings.ToLower(s), strings.ToLower(with)) }
	for _, q := range quirks {
		if begins(vendor, q.vendor) && begins(product, q.product) && strings.Contains(strings.ToLower(product), strings.ToLower(q.generation)) {
			return q.method
		}
	}
	return ""
}

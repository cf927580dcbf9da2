package status

// Profile is what machines can be installed with.
type Profile struct {
	Name     string   `json:"name"`
	Driver   string   `json:"driver"`
	Release  string   `json:"release,omitempty"`
	Arch     string   `json:"arch"`
	Default  bool     `json:"default"`  // what unknown machines get
	Machines int      `json:"machines"` // that were given it
	Bytes    int64    `json:"bytes"`    // of all artifacts that it needs
	Missing  []string `json:"missing"`  // digests that no index has
	Document string   `json:"document,omitempty"`
}

// Rendered is what one machine gets at its next network boot.
type Rendered struct {
	Profile string `json:"profile"`
	Driver  string `json:"driver"`
	// MadeUp says what is not known before the machine boots, and stands here by an example.
	MadeUp string         `json:"made_up,omitempty"`
	Files  []RenderedFile `json:"files"` // the boot script first
}

// RenderedFile is one file that a machine asks for.
type RenderedFile struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

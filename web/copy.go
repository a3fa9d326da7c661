package web

import "time"

// MetadataCopy is the second copy of the metadata, which a start uses when the first
// is gone or damaged.
type MetadataCopy struct {
	State string `json:"state"` // current, behind or failed
	// AsOf is the time up to which it has everything; null: there is none that is good.
	AsOf  *time.Time `json:"as_of"`
	Error string     `json:"error,omitempty"` // why it cannot be written
	// Late says that it cannot be written, or is older than it may be.
	Late bool `json:"late"`
}

// metadataCopy returns nil if none is kept.
func (a *Server) metadataCopy() *MetadataCopy {
	if a.o.Copy == nil {
		return nil
	}
	c := a.o.Copy()
	return &c
}

// words says how good the copy is.
func (c *MetadataCopy) words(now time.Time) string {
	switch {
	case c == nil:
		return "none is kept"
	case c.AsOf == nil:
		return c.State + ", none is good yet"
	}
	return c.State + ", as of " + ago(now, *c.AsOf)
}

// withoutTime is what of a copy makes it another one: while all is well, AsOf is
// never the same twice.
func (c *MetadataCopy) withoutTime() *MetadataCopy {
	if c == nil || c.Late {
		return c
	}
	still := *c
	still.AsOf = nil
	return &still
}

func copyTrouble(c *MetadataCopy) Trouble {
	t := Trouble{
		Kind: "second_copy", Since: c.AsOf, What: "the second copy of the metadata is behind",
		Action: "look at the disk that it is on, and at the server's log; once it can be written it begins anew by itself",
	}
	if c.Error != "" {
		t.What = "the second copy of the metadata cannot be written: " + c.Error
	}
	if c.AsOf == nil {
		t.What += "; there is none that is good"
	} else {
		t.What += "; it has everything up to " + clock(*c.AsOf)
	}
	return t
}

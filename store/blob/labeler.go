package blob

// Labeler is implemented by a File whose blob can carry a short text that says what
// it is the content of.
type Labeler interface {
	// SetLabel replaces the label, of at most MaxLabel bytes. It is durable after
	// the next Sync, like the content.
	SetLabel(label []byte) error

	// Label returns the label. fs.ErrNotExist: there is none.
	Label() ([]byte, error)
}

// MaxLabel is the length of a label, in bytes: that of a path, and some more.
const MaxLabel = 8 << 10

package webdav

import (
	"encoding/json"
	"net/http"
)

// digestKind is the last part of a problem type's URI, as the IANA registry of
// HTTP problem types has them for digest fields
// (draft-ietf-httpapi-digest-fields-problem-types).
type digestKind string

const (
	digestUnsupported digestKind = "digest-unsupported-algorithms"
	digestInvalid     digestKind = "digest-invalid-values"
	digestMismatched  digestKind = "digest-mismatched-values"
)

// digestItem is a digest that is the problem. What the server has computed is not
// told: the body is not meant to be an oracle.
type digestItem struct {
	Algorithm string `json:"algorithm"`
	Provided  string `json:"provided_digest,omitempty"`
	Header    string `json:"header"`
	Reason    string `json:"reason,omitempty"`
}

// digestError refuses an upload because of the digests that came with it (400).
type digestError struct {
	kind  digestKind
	items []digestItem
}

func (e *digestError) Error() string {
	return string(e.kind) + ": " + e.items[0].Header + " " + e.items[0].Algorithm
}

// digestProblem is the RFC 9457 body of a digestError.
type digestProblem struct {
	Type        string       `json:"type"`
	Title       string       `json:"title"`
	Status      int          `json:"status"`
	Detail      string       `json:"detail"`
	Unsupported []digestItem `json:"unsupported_algorithms,omitempty"`
	Invalid     []digestItem `json:"invalid_digests,omitempty"`
	Mismatched  []digestItem `json:"mismatched_digests,omitempty"`
}

// writeDigestProblem answers 400.
func writeDigestProblem(w http.ResponseWriter, e *digestError) {
	p := digestProblem{
		Type:   "https://iana.org/assignments/http-problem-types#" + string(e.kind),
		Status: http.StatusBadRequest,
		Detail: "Nothing was changed.",
	}
	switch e.kind {
	case digestUnsupported:
		p.Title, p.Unsupported = "Unsupported hashing algorithms", e.items
		w.Header()["Want-Repr-Digest"] = []string{"sha-256=10, sha-512=5"}
	case digestInvalid:
		p.Title, p.Invalid = "Invalid digest values", e.items
	default:
		p.Title, p.Mismatched = "Mismatched digest values", e.items
	}
	body, err := json.Marshal(&p)
	if err != nil {
		body = []byte("{}") // cannot happen: strings and numbers only
	}
	w.Header()["Content-Type"] = valProblem
	writeBody(w, http.StatusBadRequest, body)
}

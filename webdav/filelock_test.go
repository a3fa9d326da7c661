package webdav

import (
	"context"
	"strings"
	"testing"

	"engramfs/store"
)

// TestExclusiveFileLocksAnswer423 tries every method that changes a resource on
// one whose file a mount's client has locked.
func TestExclusiveFileLocksAnswer423(t *testing.T) {
	setDead := `<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><x xmlns="urn:x">1</x></D:prop></D:set></D:propertyupdate>`
	for _, c := range []struct {
		name, method, target, body string
		headers                    []string
		code                       int // without the lock
	}{
		{"PUT", "PUT", "/d/f", "new", nil, 204},
		{"DELETE", "DELETE", "/d/f", "", nil, 204},
		{"DELETE tree", "DELETE", "/d/", "", nil, 204},
		{"MOVE", "MOVE", "/d/f", "", []string{"Destination: /n"}, 201},
		{"MOVE over", "MOVE", "/other", "", []string{"Destination: /d/f"}, 204},
		{"COPY over", "COPY", "/other", "", []string{"Destination: /d/f"}, 204},
		{"PROPPATCH", "PROPPATCH", "/d/f", setDead, nil, 207},
		{"LOCK", "LOCK", "/d/f", lockBody("exclusive"), nil, 200},
		{"LOCK shared", "LOCK", "/d/f", lockBody("shared"), nil, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t, "")
			s.want(201, "MKCOL", "/d", "")
			s.want(201, "PUT", "/d/f", "locked")
			s.want(201, "PUT", "/other", "other")
			a, err := s.store.LookupPath(context.Background(), "/d/f")
			if err != nil {
				t.Fatal(err)
			}
			mount := store.NewOrigin()
			l := store.FileLock{Origin: mount, Owner: 1, Exclusive: true, Start: 10, End: 10}
			if err := s.store.FileLocks().Lock(context.Background(), a.Ino, l, false); err != nil {
				t.Fatal(err)
			}
			s.want(423, c.method, c.target, c.body, c.headers...)
			if got := s.want(200, "GET", "/d/f", "").body; got != "locked" {
				t.Errorf("content %q", got)
			}
			s.want(201, "COPY", "/d/f", "", "Destination: /copy")
			if n := s.store.DAVLocks().Len(); n != 0 {
				t.Errorf("%d WebDAV locks", n)
			}
			if err := s.store.FileLocks().ReleaseOrigin(mount); err != nil {
				t.Fatal(err)
			}
			s.want(c.code, c.method, c.target, c.body, c.headers...)
		})
	}
}

func TestLockOfLockedFileNamesIt(t *testing.T) {
	s := newServer(t, "")
	s.want(201, "PUT", "/f", "")
	a, err := s.store.LookupPath(context.Background(), "/f")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.FileLocks().Lock(context.Background(), a.Ino, store.FileLock{Origin: 1, Flock: true, Exclusive: true}, false); err != nil {
		t.Fatal(err)
	}
	got := s.want(423, "LOCK", "/f", lockBody("exclusive")).body
	if !strings.Contains(got, "no-conflicting-lock") || !strings.Contains(got, "<D:href>/f</D:href>") {
		t.Errorf("answer %s", got)
	}
}

// TestPropPatchWithETag: a patch of what the client has not seen is refused.
func TestPropPatchWithETag(t *testing.T) {
	s := newServer(t, "")
	s.want(201, "PUT", "/f", "one")
	a, err := s.store.LookupPath(context.Background(), "/f")
	if err != nil {
		t.Fatal(err)
	}
	patch := `<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><x xmlns="urn:x">1</x></D:prop></D:set></D:propertyupdate>`
	s.want(207, "PROPPATCH", "/f", patch, "If-Match: "+a.ETag())
	s.want(204, "PUT", "/f", "two")
	s.want(412, "PROPPATCH", "/f", patch, "If-Match: "+a.ETag())
}

// Package webdav serves a store over WebDAV (RFC 4918, classes 1, 2 and 3) and
// plain HTTP.
//
// A [Handler] has no state of its own: files, properties and locks are the
// store's, and a change made through a mount shows here at once. Authentication
// is the caller's; Options.Principal tells the handler who asks.
//
// # Who serves which method
//
// golang.org/x/net/webdav is a good XML front for a file tree, but its handlers
// decide in the wrong order: PUT truncates before it reads, MOVE removes the
// destination before it looks for the source, COPY removes and then copies file
// by file, DELETE does not ask for the locks within, LOCK answers with an
// unescaped lock root, and every error is one of two statuses. None of that can
// be put right from below. So each method has a handler of its own here:
//
//	GET HEAD       get.go listing.go  ranges and conditions; collections as HTML
//	PUT            put.go             staged, then swapped in; an aborted upload changes nothing
//	DELETE         remove.go          one change, also for a tree; asks for locks within
//	MKCOL          mkcol.go           any body is 415
//	COPY MOVE      copymove.go        one atomic change, also over an existing tree
//	PROPFIND       propfind.go        streamed, one pass over the directory
//	PROPPATCH      proppatch.go       all or nothing
//	LOCK UNLOCK    lock.go            exclusive and shared, escaped lock roots, bound to a principal
//	OPTIONS        options.go         the same answer for every path
//	above a prefix ancestor.go        read-only collections that lead to it
//
// [Handler.FileSystem] and [Handler.LockSystem] are the same store as x/net's
// interfaces. Programs that want x/net's Handler, and the tests that compare its
// answers with ours, use them.
//
// # One path
//
// The request's path is decoded and cleaned once (RFC 3986 section 5.2.4), and
// nothing else is looked at afterwards: a rule that was checked on it holds for
// what is used. An encoded slash, a NUL, bytes that are not UTF-8 and names of
// more than 255 bytes are 400. Destination and the tags of If take the same way.
//
// Symbolic links are what they point to, if that is inside the store: relative
// links that stay below the root, up to 40 in a row. Any other link does not
// exist here (404, and not listed); DELETE and MOVE act on a link itself, PUT
// and COPY on what it points to. Locks belong to the path without links.
//
// # Order of a change
//
// Parse; look up; evaluate the If header and ask for the locks' tokens; evaluate
// If-Match and its kin, early, to save the client an upload; change the store,
// which evaluates them, and asks for the tokens, again under the change's own
// locks; drop the locks of what vanished; Store.Sync; answer. So a 2xx survives a
// power loss, of two writers with the same If-Match one wins, and an upload or a COPY
// of an hour notices a lock that was taken meanwhile.
//
// A file that a program has open for writing past the store (Attr.Native) has neither
// ETag nor Last-Modified, and for conditions it is changed: If-Match is false, except
// "*". It has both again once the last such program has closed it.
//
// # Locks
//
// A change needs a token of each lock that covers what it changes, submitted
// anywhere in the If header by the principal that took the lock. A lock on a
// collection, of depth 0 too, also protects its list of members. DELETE and MOVE
// ask for the locks inside a collection; MOVE asks at both ends, but a token that
// covers one end is enough when nobody locks the other. Writes without a lock take
// none: the later of two uploads wins. A DELETE or MOVE removes the locks of what
// is gone; a lock on the destination of a MOVE or COPY stays, because its URL was
// mapped all the time (RFC 4918 section 6.1).
//
// # Poison
//
// A change that a poisoned lock refuses is 503 with Retry-After and an RFC 9457
// body that names the lock and its generation, never the stack; it is 507 for
// Finder (User-Agent WebDAVFS/), which takes any other 5xx for "no such file".
// Reads go on, on the data behind the lock, and say so: EngramFS-Degraded names
// lock and generation, Cache-Control is no-store, and there is neither ETag nor
// Last-Modified. All statuses come from one table, in status.go.
package webdav

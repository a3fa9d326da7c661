// Package torture breaks the disk below a store, in memory and one system call at a
// time, and judges what the store makes of it.
//
// Calls stands between the store and its disk: it sees every call that changes
// something, takes what a power cut would leave before it, or lets it fail. Tree is
// what a client sees of a store; History is what it may see after a cut. TORTURE.md
// lists all of the project's long tests, these among them.
package torture

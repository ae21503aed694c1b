// Package taxonomy is the words: what can be said of a visitor, of what it did,
// and of who may know. Every other package speaks in these types.
//
// It imports the standard library only and does no I/O. Its sub-packages
// (tree, rules, consent, keys, iab, onboard) import it, never the reverse.
package taxonomy

// Package storetest says what the contracts of package retention mean: a suite
// that every engine passes (Events, Keyed, Blobs, Leases, Log), and the most
// obvious implementation of each, in memory, that the suite compares with.
//
// The model is also the store of other packages' tests: it is quick, it has no
// goroutines and no clock but the one it is given, and it never shares memory
// with its callers. It is for tests: nothing here is durable.
package storetest

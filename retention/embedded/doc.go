// Package embedded keeps Events, Keyed, Blobs and Leases on this machine:
// events and keyed values in Pebble, blobs as files, leases under the lock of
// the data directory. Its README says how the bytes lie and why.
package embedded

package tagserver

import "github.com/ebb-dmp/ebb/taxonomy"

// Account is what became of a site's events: received = stored + duplicate +
// rejected + dropped + queued, at every moment (P2).
type Account struct {
	Received  uint64                     `json:"received"`
	Stored    uint64                     `json:"stored"`
	Duplicate uint64                     `json:"duplicate"`
	Rejected  map[taxonomy.Reason]uint64 `json:"rejected,omitempty"`
	Dropped   map[taxonomy.Reason]uint64 `json:"dropped,omitempty"`
	Queued    uint64                     `json:"queued"`
}

// Balanced reports whether P2 holds of the account.
func (a *Account) Balanced() bool {
	sum := a.Stored + a.Duplicate + a.Queued
	for _, n := range a.Rejected {
		sum += n
	}
	for _, n := range a.Dropped {
		sum += n
	}
	return sum == a.Received
}

package storetest

import (
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Model is Events, Keyed, Blobs and Leases in memory, each in the way that is
// easiest to check by reading. The log has a model of its own: NewLog.
type Model struct {
	events *modelEvents
	keyed  *modelKeyed
	blobs  *modelBlobs
	leases *modelLeases
}

// NewModel returns an empty model that takes its time from now.
func NewModel(now func() taxonomy.Millis) *Model {
	return &Model{
		events: &modelEvents{now: now, rows: map[eventKey]eventRow{}},
		keyed:  &modelKeyed{now: now, spaces: map[retention.KeyedSpace]map[retention.Key]*modelItem{}},
		blobs:  &modelBlobs{files: map[string]*modelBlob{}},
		leases: &modelLeases{now: now, m: map[string]*modelLease{}},
	}
}

// Events returns the model's Events.
func (m *Model) Events() retention.Events { return m.events }

// Keyed returns the model's Keyed.
func (m *Model) Keyed() retention.Keyed { return m.keyed }

// Blobs returns the model's Blobs.
func (m *Model) Blobs() retention.Blobs { return m.blobs }

// Leases returns the model's Leases.
func (m *Model) Leases() retention.Leases { return m.leases }

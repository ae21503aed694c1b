package storetest

import (
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

func errIs(err, target error) bool { return errors.Is(err, target) }

// Visitor returns the n-th of the suite's visitors. Their keys are spread over
// the whole range and share prefixes in pairs, as keyed hashes seldom do.
func Visitor(n int) taxonomy.VisitorKey {
	var v taxonomy.VisitorKey
	for i := range v {
		v[i] = byte(n/2*67 + 13)
	}
	v[15] = byte(n)
	return v
}

// writerID returns the n-th of the suite's writers.
func writerID(n int) taxonomy.WriterID {
	var w taxonomy.WriterID
	w[0], w[15] = byte(0xf0-n), byte(n)
	return w
}

// eventAt returns a plain event of a visitor.
func eventAt(v taxonomy.VisitorKey, at, received taxonomy.Millis, id, seq int) retention.StoredEvent {
	e := retention.StoredEvent{
		Record: taxonomy.Record{
			Kind: taxonomy.RecordEvent, Received: received, Site: "shop", Source: "web", Space: taxonomy.SpaceCookie,
			Visitor: v, Returning: true,
			Consent: taxonomy.Consent{Day: received.Day(), Regime: taxonomy.RegimeOptIn, Signal: taxonomy.SignalExplicit, Purposes: taxonomy.MayAll},
			Event:   &taxonomy.Event{Time: at, Kind: taxonomy.EventPage, URL: fmt.Sprintf("https://shop.example/%d", id)},
		},
		Ref:         taxonomy.Ref{Writer: writerID(0), Seq: uint64(seq)},
		RuleVersion: 7,
	}
	e.Record.Event.ID[0], e.Record.Event.ID[15] = byte(id), byte(id>>8)
	return e
}

// drawEvent draws an event that a fold could store at now. Events of browsers
// repeat their few IDs, and lie at most 24 h before and 5 minutes after their
// receipt (R20); imported ones reach further back, and their ID goes with the
// day, as it goes with the row of a file.
func drawEvent(t *rapid.T, now taxonomy.Millis, seq *uint64) retention.StoredEvent {
	received := now - taxonomy.Millis(rapid.Int64Range(0, int64(60*taxonomy.Hour)).Draw(t, "received before"))
	v := Visitor(rapid.IntRange(0, 5).Draw(t, "visitor"))
	*seq++
	e := eventAt(v, 0, received, 0, int(*seq))
	r := &e.Record
	if rapid.IntRange(0, 3).Draw(t, "imported") == 0 {
		day := now.Day() - taxonomy.Day(rapid.IntRange(0, 93).Draw(t, "days back"))
		r.Event.Time = day.Start() + taxonomy.Millis(rapid.Int64Range(0, int64(taxonomy.OneDay)-1).Draw(t, "time of day"))
		r.Event.Kind = taxonomy.EventFact
		r.Event.ID[1], r.Event.ID[2], r.Event.ID[3] = 0xff, byte(day), byte(day>>8)
		r.Import.File[3], r.Import.Row = 9, uint32(rapid.IntRange(0, 2).Draw(t, "row"))
	} else {
		r.Event.Time = received - taxonomy.Millis(rapid.Int64Range(-int64(5*taxonomy.Minute), int64(taxonomy.OneDay)).Draw(t, "before receipt"))
		r.Event.ID[0] = rapid.Byte().Filter(func(b byte) bool { return b < 3 }).Draw(t, "id")
	}
	if rapid.Bool().Draw(t, "other site") {
		r.Site = "news"
	}
	if rapid.Bool().Draw(t, "rich") {
		r.Event.Props = []taxonomy.Prop{{Key: "price", Value: rapid.String().Draw(t, "price")}, {Key: "sku", Value: ""}}
		r.Event.Traits = []taxonomy.Trait{taxonomy.CategoryTrait("iab", "1")}
		r.Bot, r.Consent.Destinations = true, []taxonomy.DestinationID{"dsp"}
	}
	e.Ref.Writer = writerID(rapid.IntRange(0, 2).Draw(t, "writer"))
	if rapid.IntRange(0, 4).Draw(t, "brought back") == 0 {
		r.First = e.Ref
	}
	e.RuleVersion = rapid.Uint32().Draw(t, "rule")
	return e
}

package taxonomy

// RecordKind is what an entry of the log says.
type RecordKind uint8

// The kinds of records. The numbers stand in files: never reuse one.
const (
	RecordEvent      RecordKind = iota + 1 // a visitor did something
	RecordConsent                          // a consent summary without events
	RecordErasure                          // forget this visitor (R23, R24)
	RecordOptIn                            // an authenticated caller lifts an erasure (R24)
	RecordMatch                            // a partner's ID was learnt (R16, R32)
	RecordMembership                       // in or out of a static list (R16)
	RecordAttribute                        // a declared or observed value (R16)
	RecordSucceeds                         // a new ID follows an old one (R27)
	RecordCounts                           // what was refused before the log (R12)
	RecordTick                             // time passed (R7)
	RecordChoice                           // which categories the visitor has switched off
)

// Record is an entry of the log. One record is one event or one statement; the
// records of a request stand together in one frame.
//
// Which fields are set depends on Kind; the others are zero. A record is never
// changed once appended, and whoever is handed one must not keep its slices
// beyond the call unless told so.
type Record struct {
	Kind RecordKind
	// Received is when the edge had it: it decides ages and precedence.
	Received Millis
	Site     SiteID
	Source   SourceID
	Space    Space
	Visitor  VisitorKey
	// Returning: it came with its own cookie, or from an authenticated caller.
	// A returning record adopts its visitor (R9, R11).
	Returning bool
	Bot       bool
	Consent   Consent
	// First is where a record stood that was brought back by a returning node
	// (R4), zero for all others. Use Ref for the place that identifies a record.
	First Ref
	// Import names the row of a file that the record came from (R13).
	Import ImportRow

	Event     *Event     // RecordEvent
	Match     *Match     // RecordMatch
	Statement *Statement // RecordMembership, RecordAttribute
	Succeeds  VisitorKey // RecordSucceeds: Visitor follows this one
	Counts    []Count    // RecordCounts
	Heard     []Heard    // RecordCounts: consent signals of requests
	// Off are the categories that the visitor has switched off, sorted: all of
	// them, so that the newest choice says everything (RecordChoice).
	Off []Trait
}

// ImportRow is a row of an imported file. The zero value is none.
type ImportRow struct {
	// File is SHA-256 of the file's bytes and the source, cut to 16 bytes.
	File [16]byte
	Row  uint32
}

// IsZero reports whether the record was not imported.
func (r ImportRow) IsZero() bool { return r == ImportRow{} }

// Match says that a destination knows the visitor by ID.
type Match struct {
	Destination DestinationID
	ID          string // the partner's own, opaque, at most 256 bytes
}

// Statement is an attribute's value, or a list's membership, as of Time.
type Statement struct {
	ID    EventID // breaks ties between statements of the same Time (R8)
	Time  Millis
	Trait Trait // a: or l:
	Until Day   // the first day on which it no longer holds; 0: 90 days from Time
}

// Outcome is what became of what was received: the terms of P2.
type Outcome uint8

// The outcomes.
const (
	Stored Outcome = iota + 1
	Duplicate
	Rejected // malformed, unknown site, too old
	Dropped  // refused by policy: consent, erased, not adopted, full
)

var outcomes = [...]string{Stored: "stored", Duplicate: "duplicate", Rejected: "rejected", Dropped: "dropped"}

func (o Outcome) String() string {
	if int(o) < len(outcomes) && o > 0 {
		return outcomes[o]
	}
	return "unknown"
}

// Count is a number of events of a site that met the same end before the log.
// Each counts as received too (R12).
type Count struct {
	Site    SiteID
	Outcome Outcome
	Reason  Reason
	N       uint64
}

// Reason says why something was rejected or dropped: a closed list, since
// reasons are labels of metrics. Codes that a caller sees are these words.
type Reason string

// The reasons.
const (
	ReasonMalformed       Reason = "malformed"
	ReasonUnknownSite     Reason = "unknown_site"
	ReasonWrongOrigin     Reason = "wrong_origin"
	ReasonTooOld          Reason = "too_old"
	ReasonTooLarge        Reason = "too_large"
	ReasonTooMany         Reason = "too_many"
	ReasonPII             Reason = "pii"
	ReasonConsent         Reason = "consent"
	ReasonErased          Reason = "erased"
	ReasonNotAdopted      Reason = "not_adopted"
	ReasonProvisionalFull Reason = "provisional_full"
	ReasonRateLimit       Reason = "rate_limit"
	ReasonCorrupt         Reason = "corrupt"
	ReasonLogExpired      Reason = "log_expired"
	ReasonImport          Reason = "bad_row"
	ReasonSource          Reason = "source_ended"
)

// EventCount returns how many received events the record stands for (P2): one
// for an event; what its counts add up to for RecordCounts; none for all
// others.
func (r *Record) EventCount() uint64 {
	switch r.Kind {
	case RecordEvent:
		return 1
	case RecordCounts:
		var n uint64
		for i := range r.Counts {
			n += r.Counts[i].N
		}
		return n
	}
	return 0
}

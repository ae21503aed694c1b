package consent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	decide "github.com/ebb-dmp/ebb/taxonomy/consent"
)

// Role is for whom TC strings are read.
type Role string

// The roles.
const (
	// NoRole: TC strings cannot be read, and a request that carries one is
	// refused.
	NoRole Role = ""
	// AsVendor: the operator is a vendor of the Global Vendor List.
	AsVendor Role = "vendor"
	// AsPublisher: the operator is the publisher, and goes by what the string
	// says of the publisher's own purposes.
	AsPublisher Role = "publisher"
)

// Destination is what the strings must be asked about a receiver.
type Destination struct {
	ID taxonomy.DestinationID
	// Vendor is its ID in the Global Vendor List; 0: it has none, and then no TC
	// string reaches it, since nobody was asked about it.
	Vendor uint16
	// Syncs: its cookie is set in the browser, so it needs purpose 1 as well.
	Syncs bool
}

// Options are who reads and who receives.
type Options struct {
	Role   Role
	Vendor uint16      // AsVendor: our ID in the list
	List   *VendorList // AsVendor: needed; AsPublisher: without it no TC string reaches a destination
	CMPs   *CMPList    // nil: none is known to be deleted
	// PurposeOne are the countries, two capital letters, where a publisher need
	// not put purpose 1 to the visitor.
	PurposeOne   []string
	Destinations []Destination
}

// Reader reads the strings of requests. It is immutable and safe for concurrent
// use.
type Reader struct {
	o      Options
	asked  []uint16  // the vendors in question, sorted
	listed []*Vendor // what they declare, in the same order; nil: not in the list
	self   int       // our place in asked; -1 unless AsVendor
	// receivers are the destinations by ID, and where each stands in asked.
	receivers []receiver
	all       []taxonomy.DestinationID
	tcf, gpp  narrow

	// lists has the slices that were handed out for each subset of the first 64
	// receivers, so that the same answer is not made twice.
	lists  atomic.Pointer[map[uint64][]taxonomy.DestinationID]
	adding sync.Mutex
}

type receiver struct {
	Destination
	at int // in asked; -1: it is no vendor
}

// narrow is what is said of a string that allows less than everything, by the
// purposes that it does not allow.
type narrow struct {
	purposes                      [taxonomy.MayAll + 1]decide.Reason
	undisclosed, vendor, restrict decide.Reason
	destinations                  decide.Reason
}

// need is the TCF purpose that each of ours needs.
var need = [...]struct {
	ours taxonomy.Purposes
	tcf  int
	name string
}{
	{taxonomy.MayStore, 1, "1 (store and access information on the device)"},
	{taxonomy.MayProfile, 3, "3 (create profiles for personalised advertising)"},
	{taxonomy.MayInsight, 9, "9 (understand audiences)"},
	{taxonomy.MayTrain, 10, "10 (develop and improve services)"},
	{taxonomy.MayExport, 4, "4 (use profiles to select advertising)"},
}

// NewReader checks the options. An error names the setting and the next step.
func NewReader(o Options) (*Reader, error) {
	r := &Reader{o: o, self: -1}
	switch o.Role {
	case NoRole, AsPublisher:
	case AsVendor:
		switch v := o.List.Vendor(o.Vendor); {
		case o.Vendor == 0:
			return nil, errors.New("read consent strings as a vendor: no vendor ID; set consent.gvl_id to the operator's ID in the Global Vendor List")
		case o.List == nil:
			return nil, errors.New("read consent strings as a vendor: no vendor list; set consent.gvl to a copy of https://vendor-list.consensu.org/v3/vendor-list.json")
		case v == nil:
			return nil, fmt.Errorf("read consent strings as a vendor: vendor %d is not in version %d of the vendor list; correct consent.gvl_id, or get a newer list", o.Vendor, o.List.Version)
		}
		r.asked = append(r.asked, o.Vendor)
	default:
		return nil, fmt.Errorf("read consent strings: %q is no role; set consent.role to vendor or publisher", o.Role)
	}
	for _, c := range o.PurposeOne {
		if len(c) != 2 || c[0] < 'A' || c[0] > 'Z' || c[1] < 'A' || c[1] > 'Z' {
			return nil, fmt.Errorf("read consent strings: consent.purpose_one: %.10q is no country; want two capital letters, such as DE", c)
		}
	}
	for _, d := range o.Destinations {
		if d.Vendor != 0 {
			r.asked = append(r.asked, d.Vendor)
		}
		r.receivers = append(r.receivers, receiver{Destination: d})
	}
	slices.Sort(r.asked)
	r.asked = slices.Compact(r.asked)
	if len(r.asked) > maxVendors {
		return nil, fmt.Errorf("read consent strings: destinations of %d different vendors, at most %d; remove those that are not used", len(r.asked), maxVendors)
	}
	for _, id := range r.asked {
		r.listed = append(r.listed, o.List.Vendor(id))
	}
	place := func(v uint16) int {
		if i, ok := slices.BinarySearch(r.asked, v); ok {
			return i
		}
		return -1
	}
	if o.Role == AsVendor {
		r.self = place(o.Vendor)
	}
	slices.SortFunc(r.receivers, func(a, b receiver) int { return strings.Compare(string(a.ID), string(b.ID)) })
	r.all = []taxonomy.DestinationID{}
	for i := range r.receivers {
		r.receivers[i].at = place(r.receivers[i].Vendor)
		r.all = append(r.all, r.receivers[i].ID)
	}
	r.lists.Store(&map[uint64][]taxonomy.DestinationID{0: {}})
	r.tcf.words("TCF string", o)
	r.gpp.words("TCF section of the GPP string", o)
	return r, nil
}

func (n *narrow) words(what string, o Options) {
	who := "the publisher"
	if o.Role == AsVendor {
		who = fmt.Sprintf("vendor %d", o.Vendor)
	}
	for missing := range n.purposes {
		var names []string
		for _, p := range need {
			if taxonomy.Purposes(missing).Has(p.ours) {
				names = append(names, p.name)
			}
		}
		n.purposes[missing] = decide.Reason{Code: "tcf_purposes", Why: fmt.Sprintf("the %s does not allow %s TCF purpose %s", what, who, strings.Join(names, ", ")),
			Mend: "only the visitor can change that, in the consent platform; check that it asks for this purpose"}
	}
	n.undisclosed = decide.Reason{Code: "tcf_not_disclosed", Why: fmt.Sprintf("the %s does not say that %s was disclosed to the visitor", what, who), Mend: "add the vendor to the consent platform's list"}
	n.vendor = decide.Reason{Code: "tcf_vendor", Why: fmt.Sprintf("the %s has the visitor's agreement to other vendors, not to %s", what, who), Mend: "add the vendor to the consent platform's list, if it is not there; otherwise only the visitor can change that"}
	n.restrict = decide.Reason{Code: "tcf_restricted", Why: fmt.Sprintf("the %s has a publisher's restriction, or the vendor list no declaration, for what %s needs", what, who), Mend: "change the publisher restrictions in the consent platform, or what the vendor declares"}
	n.destinations = decide.Reason{Code: "tcf_destinations", Why: "the " + what + " does not let every destination be sent to", Mend: "give each destination its gvl_id, and have the consent platform ask about that vendor"}
}

// Read appends a statement for each thing that the strings of a request say. It
// is Options.Strings of the edge. It allocates nothing once a set of
// destinations has been seen.
func (r *Reader) Read(dst []decide.Statement, t tagserver.Strings, day taxonomy.Day) []decide.Statement {
	sid, sidOK := parseSIDs(t.GPPSID)
	tcfInGPP := false
	if t.GPP != "" || t.GPPSID != "" {
		if !sidOK {
			dst = append(dst, stale(taxonomy.SignalGPP, &gppSID))
		} else {
			dst, tcfInGPP = r.readGPP(dst, t.GPP, &sid, day)
		}
	}
	if t.TCF != "" {
		dst = append(dst, r.readTCF(taxonomy.SignalTCF, t.TCF, day))
	} else if t.GDPR == "1" && !tcfInGPP {
		dst = append(dst, stale(taxonomy.SignalTCF, &tcfMissing))
	}
	if t.USP != "" {
		optOut, bad := readUSP(t.USP)
		if bad == &uspMalformed {
			optOut, bad = bad, nil // a placeholder says nothing; anything else is an opt-out
		}
		dst = append(dst, american(taxonomy.SignalUSP, optOut, bad))
	}
	return dst
}

func stale(sig taxonomy.Signal, f *fault) decide.Statement {
	return decide.Statement{Signal: sig, Stale: true, Reason: *f}
}

// american is a statement of the laws of opt-out.
func american(sig taxonomy.Signal, optOut, bad *fault) decide.Statement {
	s := decide.Statement{Signal: sig, Regime: taxonomy.RegimeOptOut, Purposes: taxonomy.MayAll}
	switch {
	case bad != nil:
		return stale(sig, bad)
	case optOut != nil:
		s.Purposes, s.Reason = 0, *optOut
	}
	return s
}

// readGPP makes up to three statements: of the TCF section, of a refusal in the
// sections of the United States, and of what cannot be read. gpp_sid says which
// sections apply; an opt-out counts in any of them, whether it applies or not.
func (r *Reader) readGPP(dst []decide.Statement, s string, sid *sids, day taxonomy.Day) (out []decide.Statement, hasTCF bool) {
	if f := suspect(s, 'D'); f != nil {
		return append(dst, stale(taxonomy.SignalGPP, f)), false
	}
	if s == "" { // with a gpp_sid
		return append(dst, stale(taxonomy.SignalGPP, &gppMissing)), false
	}
	header, rest, more := strings.Cut(s, "~")
	var ids [maxSections]uint16
	n, ok := gppHeader(header, &ids)
	if !ok || n != strings.Count(s, "~") {
		return append(dst, stale(taxonomy.SignalGPP, &gppMalformed)), false
	}
	if n == 0 {
		return append(dst, stale(taxonomy.SignalGPP, &gppEmpty)), false
	}
	begin := len(dst)
	american := false
	var optOut, bad *fault
	for i := 0; more; i++ {
		var section string
		section, rest, more = strings.Cut(rest, "~")
		id := ids[i]
		applies := sid.applies(id)
		var refuses, fails *fault
		switch {
		case section == "":
			return append(dst[:begin], stale(taxonomy.SignalGPP, &gppMalformed)), false
		case id == sectionTCF:
			if applies {
				hasTCF = true
				dst = append(dst, r.readTCF(taxonomy.SignalGPP, section, day))
			}
			continue
		case id == sectionUSP:
			refuses, fails = readUSP(section)
		case id >= firstUS && id <= lastUS:
			refuses, fails = readUS(int(id), section)
		default:
			fails = &gppUnknown
		}
		american = true
		if refuses != nil && optOut == nil {
			optOut = refuses
		}
		if fails != nil && bad == nil && applies {
			bad = fails
		}
	}
	for i := range sid.n {
		if !sid.seen[i] && bad == nil {
			bad = &gppMissing
		}
	}
	if bad != nil {
		dst = append(dst, stale(taxonomy.SignalGPP, bad))
	}
	if optOut != nil || american && bad == nil {
		dst = append(dst, americanGPP(optOut))
	}
	return dst, hasTCF
}

func americanGPP(optOut *fault) decide.Statement { return american(taxonomy.SignalGPP, optOut, nil) }

// readTCF makes the statement of a TC string.
func (r *Reader) readTCF(sig taxonomy.Signal, s string, day taxonomy.Day) decide.Statement {
	var t tcf
	f := t.parse(s, r.asked, r.o.CMPs, day)
	defer t.release()
	if f != nil {
		return stale(sig, f)
	}
	switch {
	case r.o.Role == NoRole:
		return stale(sig, &tcfNoRole)
	case r.o.Role == AsPublisher && !t.hasPublisher:
		return stale(sig, &tcfNoPublisher)
	}
	out := decide.Statement{Signal: sig, Regime: taxonomy.RegimeOptIn}
	worst := grounded
	var may purposes
	if r.self >= 0 {
		may = t.plainly(r.self, r.listed[r.self])
	}
	for _, n := range &need {
		if may.has(n.tcf) {
			out.Purposes |= n.ours
			continue
		}
		g := r.own(&t, n.tcf, day)
		if g == grounded {
			out.Purposes |= n.ours
		} else if worst == grounded || g == notDisclosed || g == vendorRefused && worst == purposeRefused {
			worst = g
		}
	}
	words := &r.tcf
	if sig == taxonomy.SignalGPP {
		words = &r.gpp
	}
	if out.Purposes.Has(taxonomy.MayExport) {
		out.Destinations = r.reached(&t, day)
	}
	switch missing := taxonomy.MayAll &^ out.Purposes; {
	case missing == 0:
		out.Reason = words.destinations
	case worst == notDisclosed:
		out.Reason = words.undisclosed
	case worst == vendorRefused:
		out.Reason = words.vendor
	case worst == isRestricted || worst == notDeclared || worst == vendorDeleted:
		out.Reason = words.restrict
	default:
		out.Reason = words.purposes[missing]
	}
	return out
}

// own says whether we may act for a purpose.
func (r *Reader) own(t *tcf, p int, day taxonomy.Day) ground {
	if r.o.Role == AsPublisher {
		return t.publisher(p, r.oneListed(t))
	}
	return t.vendor(p, r.self, r.listed[r.self], day, r.oneListed(t))
}

func (r *Reader) oneListed(t *tcf) bool {
	for _, c := range r.o.PurposeOne {
		if c[0] == t.country[0] && c[1] == t.country[1] {
			return true
		}
	}
	return false
}

// receives says whether a destination may use audiences (purpose 4), and if it
// syncs, set its cookie.
func (r *Reader) receives(t *tcf, x *receiver, day taxonomy.Day) ground {
	if x.at < 0 {
		return vendorDeleted
	}
	v := r.listed[x.at]
	if may := t.plainly(x.at, v); may.has(4) && (!x.Syncs || may.has(1)) {
		return grounded
	}
	if x.Syncs {
		if g := t.vendor(1, x.at, v, day, r.oneListed(t)); g != grounded {
			return g
		}
	}
	return t.vendor(4, x.at, v, day, false)
}

// Blocked returns why nobody may be sent to a destination on a day, or "": its
// vendor is deleted or not in the list, or does not declare what receiving takes.
// What strings allowed when they were read is not asked again: the list may be
// newer than they are. Without a list, or for a destination that is no vendor,
// nothing is known and nothing blocked.
func (r *Reader) Blocked(id taxonomy.DestinationID, day taxonomy.Day) string {
	i, ok := slices.BinarySearchFunc(r.receivers, id, func(x receiver, id taxonomy.DestinationID) int { return strings.Compare(string(x.ID), string(id)) })
	if !ok || r.o.List == nil || r.receivers[i].Vendor == 0 {
		return ""
	}
	x := &r.receivers[i]
	v := r.listed[x.at]
	lacks := func(what string) string {
		return fmt.Sprintf("the destination's vendor %d %s in version %d of the vendor list; correct its gvl_id, or get a newer list (consent.gvl)", x.Vendor, what, r.o.List.Version)
	}
	declares := func(p int) bool { return v.consent.has(p) || v.interest.has(p) }
	switch {
	case v == nil:
		return lacks("is missing")
	case !v.Deleted.IsZero() && taxonomy.DayOf(v.Deleted) <= day:
		return lacks("is deleted")
	case !declares(4):
		return lacks("does not declare purpose 4 (use profiles to select advertising)")
	case x.Syncs && !declares(1):
		return lacks("does not declare purpose 1 (store and access information on the device), which syncing takes")
	}
	return ""
}

// reached returns the destinations that a string reaches, sorted, never nil. The
// list is shared: nobody changes it.
func (r *Reader) reached(t *tcf, day taxonomy.Day) []taxonomy.DestinationID {
	if len(r.receivers) > 64 {
		out := make([]taxonomy.DestinationID, 0, len(r.receivers))
		for i := range r.receivers {
			if x := &r.receivers[i]; r.receives(t, x, day) == grounded {
				out = append(out, x.ID)
			}
		}
		return out
	}
	var subset uint64
	for i := range r.receivers {
		if r.receives(t, &r.receivers[i], day) == grounded {
			subset |= 1 << uint(i)
		}
	}
	if subset == 1<<uint(len(r.all))-1 {
		return r.all
	}
	if l, ok := (*r.lists.Load())[subset]; ok {
		return l
	}
	return r.list(subset)
}

// maxLists bounds how many subsets are remembered.
const maxLists = 1024

func (r *Reader) list(subset uint64) []taxonomy.DestinationID {
	out := []taxonomy.DestinationID{}
	for i, id := range r.all {
		if subset>>uint(i)&1 == 1 {
			out = append(out, id)
		}
	}
	r.adding.Lock()
	defer r.adding.Unlock()
	old := *r.lists.Load()
	if len(old) >= maxLists {
		return out
	}
	next := make(map[uint64][]taxonomy.DestinationID, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	next[subset] = out
	r.lists.Store(&next)
	return out
}

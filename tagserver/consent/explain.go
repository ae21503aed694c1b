package consent

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	decide "github.com/ebb-dmp/ebb/taxonomy/consent"
)

// Explanation is a string in words, and what it leads to by itself: without a
// page's own answer and without the law of a country.
type Explanation struct {
	Kind         string          `json:"kind"` // "TCF", "GPP" or "US Privacy"; "unknown"
	Fields       []Field         `json:"fields"`
	Allowed      []string        `json:"allowed"` // purposes, in Ebb's words
	Erases       bool            `json:"erases"`  // a visitor who sends it is forgotten
	Reasons      []decide.Reason `json:"reasons"`
	Destinations []Reach         `json:"destinations"`
}

// Field is a line of what a string says.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Reach is the decision for one destination.
type Reach struct {
	Destination taxonomy.DestinationID `json:"destination"`
	Allowed     bool                   `json:"allowed"`
	Why         string                 `json:"why"`
}

// Explain decodes a string of any of the formats. An American string grants
// nothing by itself, so it is explained for a visitor whom the law of the country
// would allow.
func (r *Reader) Explain(s string, day taxonomy.Day) Explanation {
	e := Explanation{Kind: "unknown", Allowed: []string{}, Destinations: []Reach{}}
	var in tagserver.Strings
	var parts []*tcf
	switch {
	case s == "":
	case s[0] == 'D':
		e.Kind, in.GPP = "GPP", s
		parts = e.gpp(r, s, day)
	case s[0] == '1':
		e.Kind, in.USP = "US Privacy", s
		e.usp(s)
	default:
		in.TCF = s
		if s[0] == 'C' || s[0] == 'B' {
			e.Kind = "TCF"
			parts = append(parts, e.tcf(r, "", s, day))
		}
	}
	sig := decide.Signals{Day: day, Mode: taxonomy.ModeByCountry, Country: "US"}
	if s != "" {
		sig.Statements = r.Read(nil, in, day)
	}
	d := decide.Decide(sig)
	e.Erases, e.Reasons = d.Expire, d.Reasons
	if p := d.Consent.Purposes.String(); p != "" {
		e.Allowed = strings.Split(p, "+")
	}
	for i := range r.receivers {
		x := &r.receivers[i]
		reach := Reach{Destination: x.ID, Allowed: d.ExportTo(x.ID), Why: "allowed"}
		if !reach.Allowed {
			reach.Why = d.Reasons[0].Why
			for _, t := range parts {
				switch g := r.receives(t, x, day); {
				case !d.Export() && d.Reasons[0].Code != "tcf_destinations":
				case x.Vendor == 0:
					reach.Why = "the destination has no gvl_id, so nobody was asked about it"
				case g != grounded:
					reach.Why = groundWords[g]
				}
			}
		}
		e.Destinations = append(e.Destinations, reach)
	}
	return e
}

func (e *Explanation) add(prefix, name, value string) {
	if value == "" {
		value = "none"
	}
	e.Fields = append(e.Fields, Field{prefix + name, value})
}

func (e *Explanation) tcf(r *Reader, prefix, s string, day taxonomy.Day) *tcf {
	t := new(tcf)
	if f := t.parse(s, r.asked, r.o.CMPs, day); f != nil {
		e.add(prefix, "counts", "no: "+f.Why)
		if f == &tcfMalformed || f == &tcfVersion || f == &tooLong {
			return t
		}
	} else {
		e.add(prefix, "counts", "yes")
	}
	num := func(n int) string { return strconv.Itoa(n) }
	e.add(prefix, "made", t.created.String())
	e.add(prefix, "updated", t.updated.String())
	e.add(prefix, "consent platform", num(int(t.cmp)))
	e.add(prefix, "policy", num(int(t.policy)))
	e.add(prefix, "vendor list", num(int(t.list)))
	e.add(prefix, "publisher's country", string(t.country[:]))
	e.add(prefix, "purposes agreed to", purposeList(t.consent))
	e.add(prefix, "legitimate interest not objected to", purposeList(t.interest))
	if t.oneTreatment {
		e.add(prefix, "purpose 1", "was not put to the visitor")
	}
	if t.hasPublisher {
		e.add(prefix, "publisher's purposes agreed to", purposeList(t.publisherConsent))
	}
	for i, id := range r.asked {
		var says []string
		for _, x := range []struct {
			is   bool
			what string
		}{{t.vendors.has(i), "agreed to"}, {t.vendorInterest.has(i), "interest not objected to"}, {t.hasDisclosed && t.disclosed.has(i), "disclosed"}} {
			if x.is {
				says = append(says, x.what)
			}
		}
		for p := range nobody {
			if t.restricted == nil {
				break
			}
			for kind, what := range [...]string{"not allowed", "needs consent", "needs legitimate interest"} {
				if t.restricted[p][kind].has(i) {
					says = append(says, fmt.Sprintf("purpose %d %s by the publisher", p, what))
				}
			}
		}
		name := fmt.Sprintf("vendor %d", id)
		if v := r.listed[i]; v != nil && v.Name != "" {
			name += " (" + v.Name + ")"
		}
		if i == r.self {
			name += ", which is us"
		}
		if len(says) == 0 {
			says = []string{"neither agreed to nor disclosed"}
		}
		e.add(prefix, name, strings.Join(says, ", "))
	}
	return t
}

func purposeList(field uint32) string {
	var out []string
	for p := 1; p <= 24; p++ {
		if purposeIn(field, p) {
			out = append(out, strconv.Itoa(p))
		}
	}
	return strings.Join(out, ", ")
}

func (e *Explanation) gpp(r *Reader, s string, day taxonomy.Day) (parts []*tcf) {
	header, rest, more := strings.Cut(s, "~")
	var ids [maxSections]uint16
	n, ok := gppHeader(header, &ids)
	if !ok || n != strings.Count(s, "~") || len(s) > maxString {
		e.add("", "counts", "no: "+gppMalformed.Why)
		return nil
	}
	for i := 0; more; i++ {
		var section string
		section, rest, more = strings.Cut(rest, "~")
		id := int(ids[i])
		var refuses, fails *fault
		name := fmt.Sprintf("section %d", id)
		switch {
		case id == sectionTCF:
			parts = append(parts, e.tcf(r, "section 2 (TCF): ", section, day))
			continue
		case id == sectionUSP:
			name += " (US Privacy)"
			refuses, fails = readUSP(section)
		case id >= firstUS && id <= lastUS:
			name += " (United States, " + usNames[id] + ")"
			refuses, fails = readUS(id, section)
		default:
			fails = &gppUnknown
		}
		e.add("", name, verdictWords(refuses, fails))
	}
	return parts
}

func (e *Explanation) usp(s string) {
	refuses, fails := readUSP(s)
	e.add("", "says", verdictWords(refuses, fails))
}

func verdictWords(refuses, fails *fault) string {
	switch {
	case fails != nil:
		return "counts as no: " + fails.Why
	case refuses != nil:
		return "no: " + refuses.Why
	}
	return "no objection"
}

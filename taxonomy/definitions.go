package taxonomy

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ConsentMode is what a site does where no signal speaks.
type ConsentMode string

// The consent modes.
const (
	// ModeOptIn: nothing without an explicit yes, wherever the visitor is.
	ModeOptIn ConsentMode = "opt-in"
	// ModeByCountry: opt-out where the law is, opt-in elsewhere and where the
	// country is unknown.
	ModeByCountry ConsentMode = "by-country"
)

// Site is a website or app that embeds the tag.
type Site struct {
	ID    SiteID `json:"id"`
	Title string `json:"title"`
	// Origins are the web origins that may post, exact: "https://shop.example".
	Origins []string    `json:"origins"`
	Source  SourceID    `json:"source"`
	Consent ConsentMode `json:"consent"`
	// QueryKeys are the keys of a URL's query that are kept; all others go.
	QueryKeys []string `json:"query_keys,omitempty"`
	// GPCMode is what Global Privacy Control does: "" refuses everything,
	// "share_only" only that visitors are sent anywhere.
	GPCMode GPCMode `json:"gpc_mode,omitempty"`
	// TrustGDPRZero: a request that says gdpr=0 is believed that the GDPR does not
	// apply, whatever country its address is of. Without it the country counts.
	TrustGDPRZero bool `json:"trust_gdpr_zero,omitempty"`
	// OptOutCountries are further countries, two capital letters, whose law the
	// operator takes to allow until a no. Only for the mode by-country, and never
	// one of Europe's.
	OptOutCountries []string `json:"opt_out_countries,omitempty"`
	// ChildDirected: the site is made for children, so nothing is kept.
	ChildDirected bool `json:"child_directed,omitempty"`
	// Ends, if set, is the first day on which the site is refused.
	Ends *Day `json:"ends,omitempty"`
}

// Source is where data comes from.
type Source struct {
	ID    SourceID `json:"id"`
	Title string   `json:"title"`
	Party int      `json:"party"` // 1, 2 or 3
	Owner string   `json:"owner,omitempty"`
	// Agreement is what the owner asserts for data that comes without a
	// visitor's own signals (R13). Without it a source imports nothing.
	Agreement *Agreement `json:"agreement,omitempty"`
	// Withdrawn: the planner leaves the source out from the next generation on,
	// and its bytes go by the next night (R19).
	Withdrawn bool `json:"withdrawn,omitempty"`
}

// Agreement states the uses that a source's owner has the visitors' consent
// for, and until when.
type Agreement struct {
	Uses []string `json:"uses"` // store, profile, insight, training, export
	// Destinations that export reaches; absent means every one.
	Destinations []DestinationID `json:"destinations,omitempty"`
	Ends         *Day            `json:"ends,omitempty"`
}

// ParsePurposes turns the words of an agreement into purposes.
func ParsePurposes(words []string) (p Purposes, err error) {
next:
	for _, w := range words {
		for _, n := range purposeNames {
			if n.s == w {
				p |= n.p
				continue next
			}
		}
		return 0, fmt.Errorf("use %q is not one of store, profile, insight, training, export", w)
	}
	return p, nil
}

// FieldError names the place of a fault in a definition.
type FieldError struct {
	Field string // dotted path, as in the JSON form: "origins[1]"
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }

// Invalid returns a FieldError.
func Invalid(field, format string, args ...any) error {
	return &FieldError{Field: field, Err: fmt.Errorf(format, args...)}
}

// Validate returns every fault of s, each a FieldError, joined.
func (s *Site) Validate() error {
	var errs []error
	if err := CheckSlug("id", string(s.ID)); err != nil {
		errs = append(errs, &FieldError{"id", err})
	}
	if strings.HasPrefix(string(s.ID), ImportSitePrefix) {
		errs = append(errs, Invalid("id", "must not begin with %q, which names imports", ImportSitePrefix))
	}
	if err := CheckSlug("source", string(s.Source)); err != nil {
		errs = append(errs, &FieldError{"source", err})
	}
	if s.Consent != ModeOptIn && s.Consent != ModeByCountry {
		errs = append(errs, Invalid("consent", "%q is not one of %q, %q", s.Consent, ModeOptIn, ModeByCountry))
	}
	if len(s.Origins) == 0 {
		errs = append(errs, Invalid("origins", "name at least one, such as https://www.example.com"))
	}
	for i, o := range s.Origins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Scheme+"://"+u.Host != o || strings.ToLower(o) != o {
			errs = append(errs, Invalid(fmt.Sprintf("origins[%d]", i), "%q is not a web origin such as https://www.example.com", o))
		}
	}
	for i, k := range s.QueryKeys {
		if k == "" || len(k) > 64 || strings.ContainsAny(k, "&=#? ") {
			errs = append(errs, Invalid(fmt.Sprintf("query_keys[%d]", i), "%q is not a query key of 1 to 64 bytes", k))
		}
	}
	if s.GPCMode != GPCRefuses && s.GPCMode != GPCShareOnly {
		errs = append(errs, Invalid("gpc_mode", "%q is not %q; leave it out to refuse everything", s.GPCMode, GPCShareOnly))
	}
	for i, c := range s.OptOutCountries {
		field := fmt.Sprintf("opt_out_countries[%d]", i)
		switch {
		case !CountryCode(c):
			errs = append(errs, Invalid(field, "%.10q is no country; want two capital letters, such as CA", c))
		case StrictCountry(c):
			errs = append(errs, Invalid(field, "the law of %s asks for a yes, and no setting changes that", c))
		}
	}
	if s.Consent != ModeByCountry && (len(s.OptOutCountries) > 0 || s.TrustGDPRZero) {
		errs = append(errs, Invalid("consent", "opt_out_countries and trust_gdpr_zero are for the mode %q; with %q nothing is allowed without a yes", ModeByCountry, s.Consent))
	}
	return errors.Join(errs...)
}

// Validate returns every fault of s, each a FieldError, joined.
func (s *Source) Validate() error {
	var errs []error
	if err := CheckSlug("id", string(s.ID)); err != nil {
		errs = append(errs, &FieldError{"id", err})
	}
	if s.Party < 1 || s.Party > 3 {
		errs = append(errs, Invalid("party", "%d is not 1 (own), 2 (a partner's own) or 3 (bought)", s.Party))
	}
	if a := s.Agreement; a != nil {
		if _, err := ParsePurposes(a.Uses); err != nil {
			errs = append(errs, &FieldError{"agreement.uses", err})
		}
		for i, d := range a.Destinations {
			if err := CheckSlug("destination", string(d)); err != nil {
				errs = append(errs, &FieldError{fmt.Sprintf("agreement.destinations[%d]", i), err})
			}
		}
	}
	return errors.Join(errs...)
}

// ImportSitePrefix begins the name under which the rows of a source's imports
// are counted (P2), where a site's events are counted under the site.
const ImportSitePrefix = "import."

// ImportSite is the name under which the imports of a source are counted.
func ImportSite(s SourceID) SiteID { return SiteID(ImportSitePrefix + string(s)) }

package consent

import (
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Reason says which signal did what, and how the site's owner mends it.
type Reason struct {
	Signal taxonomy.Signal `json:"-"`
	Code   string          `json:"code"` // stable: an API's word
	Why    string          `json:"why"`
	Mend   string          `json:"mend,omitempty"` // empty where nothing is to be mended
}

// reasons grows by copying, so that a decision with one reason points at the
// constant and allocates nothing; unless there is room.
type reasons []Reason

func (r *reasons) add(x *[1]Reason) {
	if cap(*r) == 0 {
		*r = x[:]
		return
	}
	*r = append(*r, x[0])
}

func (r *reasons) first(x *[1]Reason) { *r = slices.Insert(*r, 0, x[0]) }

// The reasons of Decide itself. Parsers bring their own.
var (
	optOut = [1]Reason{{taxonomy.SignalOptOut, "optout_cookie",
		"the browser carries the opt-out cookie", "only the visitor can opt in again, by POST /v1/optin"}}
	gpc = [1]Reason{{taxonomy.SignalGPC, "gpc",
		"the browser sends Sec-GPC: 1", "only the visitor can switch it off, in the browser"}}
	gpcShare = [1]Reason{{taxonomy.SignalGPC, "gpc_share",
		"the browser sends Sec-GPC: 1, and the site keeps such visitors to itself (gpc_mode: share_only)", "only the visitor can switch it off, in the browser"}}
	dnt = [1]Reason{{taxonomy.SignalGPC, "dnt",
		"the browser sends DNT: 1", "only the visitor can switch it off, in the browser; consent.dnt: false has it ignored"}}
	dntShare = [1]Reason{{taxonomy.SignalGPC, "dnt_share",
		"the browser sends DNT: 1, and the site keeps such visitors to itself (gpc_mode: share_only)", "only the visitor can switch it off, in the browser; consent.dnt: false has it ignored"}}
	child = [1]Reason{{taxonomy.SignalExplicit, "child",
		"the site is made for children, or the request says that the visitor is a child (coppa=1)", "nothing: no data of children is kept"}}
	explicitNo = [1]Reason{{taxonomy.SignalExplicit, "explicit_no",
		"the page said that the visitor refused (granted: false)", "ask again only when the visitor comes back to it"}}
	explicitYes = [1]Reason{{taxonomy.SignalExplicit, "explicit_yes",
		"the page said that the visitor agreed (granted: true)", ""}}
	tcfYes        = [1]Reason{{taxonomy.SignalTCF, "string_yes", "the visitor's TCF string says yes", ""}}
	gppYes        = [1]Reason{{taxonomy.SignalGPP, "string_yes", "the visitor's GPP string says yes", ""}}
	optOutCountry = [1]Reason{{taxonomy.SignalMode, "optout_country",
		"the law of the visitor's country allows it until a no, and the site goes by country", ""}}
	noConsent = [1]Reason{{taxonomy.SignalNone, "no_consent",
		"nobody said yes, and the site's consent mode is opt-in", "have the page send the visitor's answer: consent.granted, or a TCF string"}}
	countryUnknown = [1]Reason{{taxonomy.SignalNone, "country_unknown",
		"nobody said yes, and the visitor's country is unknown, which is strict", "configure a country database, or have the page send the visitor's answer: consent.granted"}}
	countryStrict = [1]Reason{{taxonomy.SignalNone, "country_strict",
		"nobody said yes, and the visitor's country asks for a yes", "have the page send the visitor's answer: consent.granted, or a TCF string"}}
	agreement = [1]Reason{{taxonomy.SignalAsserted, "agreement",
		"the source's agreement asserts the visitors' consent", ""}}
	agreementBad = [1]Reason{{taxonomy.SignalAsserted, "agreement_invalid",
		"the source's agreement names a use that does not exist", "correct agreement.uses of the source"}}
	agreementEnded = [1]Reason{{taxonomy.SignalAsserted, "agreement_ended",
		"the source's agreement has ended", "renew it: agreement.ends of the source"}}
	agreementNoUse = [1]Reason{{taxonomy.SignalAsserted, "agreement_too_narrow",
		"the source's agreement does not allow both store and profile", "correct agreement.uses of the source"}}
)

// What is said of a string whose parser gives no reason.
var (
	stringNarrows = Reason{Code: "string_narrows", Why: "a consent string does not allow everything"}
	stringInvalid = Reason{Code: "string_invalid", Why: "a consent string is malformed, expired or of another site",
		Mend: "check what the consent platform sends"}
)

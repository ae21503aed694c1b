package consent

import (
	"strings"

	decide "github.com/ebb-dmp/ebb/taxonomy/consent"
)

// maxString bounds a string, in bytes. TC strings with every vendor have 1.8 kB,
// and the GPP specification's own advice is 8 kB.
const maxString = 8 << 10

// fault is why a string counts for nothing, and how to mend it.
type fault = decide.Reason

const (
	askPlatform = "check what the consent platform sends"
	askAgain    = "have the consent platform ask the visitor again"
)

// The faults of TC strings.
var (
	tooLong      = fault{Code: "string_too_long", Why: "a consent string is longer than 8 KiB", Mend: askPlatform}
	macro        = fault{Code: "string_macro", Why: "a consent string is a macro that nobody replaced, or a word such as null", Mend: "have the ad server or tag manager replace it by the string, or leave it out"}
	tcfMalformed = fault{Code: "tcf_malformed", Why: "the TCF string is cut, changed or contradicts itself", Mend: askPlatform + "; it must arrive unchanged, in base64url"}
	tcfVersion   = fault{Code: "tcf_version", Why: "the TCF string is not of version 2", Mend: "update the consent platform to TCF 2.3"}
	tcfPolicy    = fault{Code: "tcf_policy", Why: "the TCF string follows a policy that ended in 2023", Mend: "update the consent platform to TCF 2.3"}
	tcfGlobal    = fault{Code: "tcf_global", Why: "the TCF string is of global scope, which no longer exists", Mend: "have the consent platform ask for this site"}
	tcfDates     = fault{Code: "tcf_dates", Why: "the TCF string was updated before it was made", Mend: askPlatform}
	tcfFuture    = fault{Code: "tcf_future", Why: "the TCF string is of more than two days ahead", Mend: "check the clock of the consent platform"}
	tcfExpired   = fault{Code: "tcf_expired", Why: "the TCF string is older than 13 months", Mend: askAgain}

	tcfNoDisclosure = fault{Code: "tcf_no_disclosure", Why: "the TCF string is of March 2026 or later and has no disclosed vendors, which TCF 2.3 demands", Mend: "update the consent platform to TCF 2.3"}
	tcfCMPDeleted   = fault{Code: "tcf_cmp_deleted", Why: "the TCF string is of a consent platform that does not exist, or that the IAB has deleted", Mend: "choose a consent platform that is in the IAB's list"}
	tcfMissing      = fault{Code: "tcf_missing", Why: "the request says that the GDPR applies (gdpr=1) and brings no TCF string", Mend: "send the TCF string as gdpr_consent, or in gpp"}
	tcfNoRole       = fault{Code: "tcf_no_role", Why: "a TCF string is there, and it is not configured for whom it is to be read", Mend: "set consent.role, and for a vendor consent.gvl_id and consent.gvl"}
	tcfNoPublisher  = fault{Code: "tcf_no_publisher", Why: "the TCF string has no publisher segment, which is what a publisher goes by", Mend: "have the consent platform ask for the publisher's own purposes, or set consent.role: vendor"}
)

// The faults of GPP and US Privacy strings.
var (
	gppMalformed = fault{Code: "gpp_malformed", Why: "the GPP string is cut, changed or contradicts itself", Mend: askPlatform + "; it must arrive unchanged, in base64url"}
	gppEmpty     = fault{Code: "gpp_empty", Why: "the GPP string has no section: the consent platform had nothing to say yet", Mend: "wait for the consent platform's signalStatus to be ready before the tag sends"}
	gppSID       = fault{Code: "gpp_sid_malformed", Why: "gpp_sid is not one or two numbers of sections", Mend: "send the applicableSections of the consent platform, such as 7 or 2,6"}
	gppMissing   = fault{Code: "gpp_section_missing", Why: "gpp_sid names a section that the GPP string does not have", Mend: "send gpp and gpp_sid of the same moment"}
	gppUnknown   = fault{Code: "gpp_section_unknown", Why: "a section of the GPP string, or its version, is one that this version does not read", Mend: "update Ebb, or have the consent platform use a section that it reads"}
	usMalformed  = fault{Code: "gpp_us_malformed", Why: "a section of the United States in the GPP string is cut or has values that do not exist", Mend: askPlatform}

	usOptedOut = fault{Code: "us_opted_out", Why: "the visitor opted out of sale, sharing or targeted advertising", Mend: "only the visitor can change that, in the consent platform"}
	usGPC      = fault{Code: "us_gpc", Why: "the GPP string says that the browser sends Global Privacy Control", Mend: "only the visitor can switch it off, in the browser"}
	usNotice   = fault{Code: "us_no_notice", Why: "the GPP string says that a notice which the law asks for was not given", Mend: "have the consent platform give the notice"}
	usChild    = fault{Code: "us_child", Why: "the GPP string says that the visitor is known to be a child", Mend: "nothing: no data of children is kept"}
	usService  = fault{Code: "us_service_provider", Why: "the GPP string says that only service providers may act, and audiences are not a service to this site alone", Mend: "ask for another MSPA mode if the contract allows it"}
	usRefused  = fault{Code: "us_consent_refused", Why: "the visitor did not consent to the processing of personal data", Mend: "only the visitor can change that, in the consent platform"}

	uspMalformed = fault{Code: "usp_malformed", Why: "the US Privacy string is not of the form 1YNN", Mend: askPlatform}
	uspOptedOut  = fault{Code: "usp_opted_out", Why: "the US Privacy string says that the visitor opted out of sale", Mend: "only the visitor can change that, in the consent platform"}
)

// suspect finds what is no string of a format at all: too long, a macro, a word.
func suspect(s string, first byte) *fault {
	switch {
	case len(s) > maxString:
		return &tooLong
	case s == "" || s[0] == first:
		return nil // for the parser to judge
	}
	switch s {
	case "undefined", "null", "NaN", "-1", "0", "1", "2", "true", "false", "none":
		return &macro
	}
	if s[0] == '$' || s[0] == '[' || s[0] == '{' || s[0] == '%' || strings.HasPrefix(s, "GDPR_CONSENT_") || strings.HasPrefix(s, "GPP_STRING_") {
		return &macro
	}
	return nil
}

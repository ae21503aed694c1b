package taxonomy

// GPCMode is what Global Privacy Control does on a site.
type GPCMode string

// The modes.
const (
	// GPCRefuses: it refuses everything, and a known visitor is forgotten.
	GPCRefuses GPCMode = ""
	// GPCShareOnly: nobody is sent anywhere, and what the site itself does with
	// its visitors goes on, as far as all else allows.
	GPCShareOnly GPCMode = "share_only"
)

// strictCountries ask for a yes by law: those of the European Economic Area with
// their territories, the United Kingdom with the islands that follow it,
// Gibraltar, and Switzerland. No site's setting opens them.
const strictCountries = "AT BE BG CH CY CZ DE DK EE ES FI FR GB GR HR HU IE IS IT LI LT LU LV MT NL NO PL PT RO SE SI SK " +
	"AX BL GF GG GI GP IM JE MF MQ PM RE YT "

// StrictCountry reports whether a country's law asks for a yes, whatever a site
// says.
func StrictCountry(c string) bool {
	if len(c) != 2 {
		return false
	}
	for i := 0; i+2 <= len(strictCountries); i += 3 {
		if strictCountries[i:i+2] == c {
			return true
		}
	}
	return false
}

// CountryCode reports whether c is written as a country: two capital letters.
func CountryCode(c string) bool {
	return len(c) == 2 && c[0] >= 'A' && c[0] <= 'Z' && c[1] >= 'A' && c[1] <= 'Z'
}

package consent

// A section of the United States is fields of two bits. What each is, is a letter
// of a layout:
//
//	N  a notice that the law asks for: 1 given, 2 not given
//	O  an opt-out: 1 opted out, 2 did not
//	S  sensitive data, of which Ebb has none
//	C  a known child: anything but 0 says that it is one
//	P  a consent: 1 refused, 2 given
//	T  whether the MSPA covers it, M its opt-out mode: neither decides
//	V  its service provider mode: 1 on
//	W  its mode in the newest sections: 2 is service provider
//
// 0 is "not applicable" everywhere, and 3 exists nowhere.
type usLayout struct {
	version uint8
	fields  string
	// numbered: the newest sections may begin with their own number.
	numbered bool
	// sensitive: what follows the core may be a list of sensitive data.
	sensitive bool
}

const (
	firstUS = 7
	lastUS  = 27
)

// usLayouts has every section that is published, by number. Where the
// specification's tables and the IAB's own encoder disagree, it goes by the
// encoder, which made the strings: Tennessee has a T, Maryland to Rhode Island
// may lack the leading numbers.
var usLayouts = [lastUS + 1][]usLayout{
	7: {{version: 1, fields: "NNNNNNOOO" + "SSSSSSSSSSSS" + "CC" + "PTMV"},
		{version: 2, fields: "NNNNNNOOO" + "SSSSSSSSSSSSSSSS" + "CCC" + "PTMV"}}, // national
	8:  {{version: 1, fields: "NNNOO" + "SSSSSSSSS" + "CC" + "PTMV"}},                  // California
	9:  {{version: 1, fields: "NNNOO" + "SSSSSSSS" + "C" + "TMV"}},                     // Virginia
	10: {{version: 1, fields: "NNNOO" + "SSSSSSS" + "C" + "TMV"}},                      // Colorado
	11: {{version: 1, fields: "NNNNOO" + "SSSSSSSS" + "C" + "TMV"}},                    // Utah
	12: {{version: 1, fields: "NNNOO" + "SSSSSSSS" + "CCC" + "TMV"}},                   // Connecticut
	13: {{version: 1, fields: "NNNOO" + "SSSSSSSS" + "CCC" + "PTMV"}},                  // Florida
	14: {{version: 1, fields: "NNNOO" + "SSSSSSSS" + "CCC" + "PTMV"}},                  // Montana
	15: {{version: 1, fields: "NNNOO" + "SSSSSSSSSSS" + "CCC" + "PTMV"}},               // Oregon
	16: {{version: 1, fields: "NNNOO" + "SSSSSSSS" + "C" + "PTMV"}},                    // Texas
	17: {{version: 1, fields: "NNNOO" + "SSSSSSSSS" + "CCCCC" + "PTMV"}},               // Delaware
	18: {{version: 1, fields: "NNNNOO" + "SSSSSSSS" + "C" + "TMV"}},                    // Iowa
	19: {{version: 1, fields: "NNNOO" + "SSSSSSSS" + "C" + "PTMV"}},                    // Nebraska
	20: {{version: 1, fields: "NNNOO" + "SSSSSSSS" + "CCC" + "PTMV"}},                  // New Hampshire
	21: {{version: 1, fields: "NNNOO" + "SSSSSSSSSS" + "CCCCC" + "PTMV"}},              // New Jersey
	22: {{version: 1, fields: "NNNOO" + "SSSSSSSS" + "C" + "PTMV"}},                    // Tennessee
	23: {{version: 1, fields: "NNNOO" + "SSSSSSSS" + "C" + "PTMV"}},                    // Minnesota
	24: {{version: 1, fields: "TW" + "NNNOO" + "P", numbered: true}},                   // Maryland
	25: {{version: 1, fields: "TW" + "NNNOO" + "CP", numbered: true, sensitive: true}}, // Indiana
	26: {{version: 1, fields: "TW" + "NNNOO" + "CP", numbered: true, sensitive: true}}, // Kentucky
	27: {{version: 1, fields: "TW" + "NNNOO" + "CP", numbered: true, sensitive: true}}, // Rhode Island
}

var usNames = [lastUS + 1]string{
	7: "national", 8: "California", 9: "Virginia", 10: "Colorado", 11: "Utah", 12: "Connecticut", 13: "Florida", 14: "Montana",
	15: "Oregon", 16: "Texas", 17: "Delaware", 18: "Iowa", 19: "Nebraska", 20: "New Hampshire", 21: "New Jersey", 22: "Tennessee",
	23: "Minnesota", 24: "Maryland", 25: "Indiana", 26: "Kentucky", 27: "Rhode Island",
}

// readUS reads a section of the United States. optOut is why it refuses, nil if
// it does not; bad is why it cannot be read, and then optOut says nothing.
func readUS(id int, section string) (optOut, bad *fault) {
	core, rest, more := nextSegment(section)
	if !wellFormed(core) {
		return nil, &usMalformed
	}
	b := bits{s: core}
	version := b.num(6)
	layouts := usLayouts[id]
	if layouts[0].numbered && version == uint64(id) {
		version = b.num(6)
		b.skip(6) // the MSPA's version
	}
	var layout *usLayout
	for i := range layouts {
		if uint64(layouts[i].version) == version {
			layout = &layouts[i]
		}
	}
	if layout == nil {
		return nil, &gppUnknown
	}
	for i := 0; i < len(layout.fields); i++ {
		v := b.num(2)
		if v == 3 {
			return nil, &usMalformed
		}
		if f := usField(layout.fields[i], v); f != nil && optOut == nil {
			optOut = f
		}
	}
	if b.short || !b.padded() {
		return nil, &usMalformed
	}
	for n := 0; more; n++ {
		var sub string
		sub, rest, more = nextSegment(rest)
		gpc, ok := usSubsection(sub, layout)
		if !ok || n == 2 {
			return nil, &usMalformed
		}
		if gpc && optOut == nil {
			optOut = &usGPC
		}
	}
	return optOut, nil
}

func usField(kind byte, v uint64) *fault {
	switch {
	case kind == 'O' && v == 1:
		return &usOptedOut
	case kind == 'N' && v == 2:
		return &usNotice
	case kind == 'C' && v != 0:
		return &usChild
	case kind == 'P' && v == 1:
		return &usRefused
	case kind == 'V' && v == 1, kind == 'W' && v == 2:
		return &usService
	}
	return nil
}

// usSubsection reads what follows the core: whether the browser sends Global
// Privacy Control, or a list of sensitive data.
func usSubsection(s string, layout *usLayout) (gpc, ok bool) {
	if !wellFormed(s) {
		return false, false
	}
	b := bits{s: s}
	if layout.sensitive && b.left() >= 16 {
		return false, true
	}
	if b.num(2) != 1 {
		return false, false
	}
	gpc = b.flag()
	return gpc, !b.short && b.padded()
}

// usp says what a US Privacy string means: optOut, bad, or neither.
func readUSP(s string) (optOut, bad *fault) {
	if f := suspect(s, '1'); f != nil {
		return nil, f
	}
	if len(s) != 4 || s[0] != '1' {
		return nil, &uspMalformed
	}
	for i := 1; i < 4; i++ {
		if s[i] != 'Y' && s[i] != 'N' && s[i] != '-' {
			return nil, &uspMalformed
		}
	}
	if s[2] == 'Y' {
		return &uspOptedOut, nil
	}
	return nil, nil
}

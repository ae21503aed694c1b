package fold

// A partner's ID is kept packed: most are UUIDs, numbers or hashes, and take half of
// their length. The first byte of a packed ID says how it is; of IDs that differ, the
// packed ones do too.
const (
	asHex  = iota // small letters and figures, two a byte
	asHex1        // likewise, of an odd number, with a zero before them
	asUUID        // small letters, with lines where a UUID has them
	asIs
)

// uuidLine reports whether a UUID has a line at an index.
func uuidLine(i int) bool { return i == 8 || i == 13 || i == 18 || i == 23 }

// packID appends a packed ID.
func packID[T string | []byte](b []byte, id T) []byte {
	kind := byte(len(id) % 2)
	if len(id) == 36 && id[8] == '-' {
		kind = asUUID
	}
	packed := append(b, kind)
	half := kind == asHex1
	if half {
		packed = append(packed, 0)
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case kind == asUUID && uuidLine(i):
			if c == '-' {
				continue
			}
			return append(append(b, asIs), id...)
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return append(append(b, asIs), id...)
		}
		if half {
			packed[len(packed)-1] |= c
		} else {
			packed = append(packed, c<<4)
		}
		half = !half
	}
	return packed
}

// unpackID appends the ID that is packed.
func unpackID(b, packed []byte) []byte {
	kind, rest := packed[0], packed[1:]
	if kind == asIs {
		return append(b, rest...)
	}
	const figures = "0123456789abcdef"
	for i, x := range rest {
		if kind == asUUID && (i == 4 || i == 6 || i == 8 || i == 10) {
			b = append(b, '-')
		}
		if kind != asHex1 || i > 0 {
			b = append(b, figures[x>>4])
		}
		b = append(b, figures[x&15])
	}
	return b
}

package fold

import (
	"github.com/ebb-dmp/ebb/taxonomy"
)

// rowSeen reports whether a row of an import came before, and remembers it
// (R13).
func (s *State) rowSeen(row taxonomy.ImportRow, received taxonomy.Millis) bool {
	k := importChunk{row.File, row.Row >> 12}
	bits, ok := s.imports.get(k)
	if !ok {
		bits = new([512]byte)
		first := importChunk{row.File, importBorn}
		if _, ok := s.imports.get(first); !ok {
			s.imports.put(first, dayBits(received.Day()))
		}
	}
	i := row.Row & 4095
	if bits[i/8]&(1<<(i%8)) != 0 {
		return true
	}
	bits[i/8] |= 1 << (i % 8)
	s.imports.put(k, bits)
	return false
}

// Imported reports whether a row of a file has been folded. It is safe for
// concurrent use.
func (f *Fold) Imported(row taxonomy.ImportRow) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	bits, ok := f.state.imports.get(importChunk{row.File, row.Row >> 12})
	i := row.Row & 4095
	return ok && bits[i/8]&(1<<(i%8)) != 0
}

// importBorn is the chunk that holds the day of an import's first receipt.
const importBorn = 1<<32 - 1

func dayBits(d taxonomy.Day) *[512]byte {
	b := new([512]byte)
	for i := range 4 {
		b[i] = byte(uint32(d) >> (8 * i))
	}
	return b
}

func bitsDay(b *[512]byte) taxonomy.Day {
	return taxonomy.Day(int32(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24))
}

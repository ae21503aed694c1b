package fold

import (
	"encoding/binary"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// What the consent signals of requests said, by day and site. These are counts
// without a visitor; they come in the records of counts (R12), so a frame that is
// folded twice counts once, and they go with their day as all else does.

type heardKey struct {
	day     taxonomy.Day
	site    taxonomy.SiteID
	signal  taxonomy.Signal
	verdict taxonomy.Verdict
}

func (s *State) hear(heard []taxonomy.Heard) {
	for i := range heard {
		h := &heard[i]
		if h.Day.Expired(s.clock) {
			continue
		}
		k := heardKey{h.Day, h.Site, h.Signal, h.Verdict}
		n, _ := s.heard.get(k)
		s.heard.put(k, n+h.N)
	}
}

// Heard returns what the signals of requests said on each of the 90 days and at
// each site, as folded so far, in order. The caller owns it.
func (f *Fold) Heard() []taxonomy.Heard {
	f.mu.RLock()
	defer f.mu.RUnlock()
	hs := make([]taxonomy.Heard, 0, len(f.state.heard.m))
	for k, n := range f.state.heard.m {
		hs = append(hs, taxonomy.Heard{Day: k.day, Site: k.site, Signal: k.signal, Verdict: k.verdict, N: n})
	}
	taxonomy.SortHeard(hs)
	return hs
}

// day u32, big endian · signal u8 · verdict u8 · site → uvarint.
var heardCodec = codec[heardKey, uint64]{
	key: func(b []byte, k heardKey) []byte {
		b = binary.BigEndian.AppendUint32(b, uint32(k.day))
		return append(append(b, byte(k.signal), byte(k.verdict)), k.site...)
	},
	unkey: func(b []byte) (k heardKey, err error) {
		var head [6]byte
		if err := exactly(head[:], b[:min(len(b), len(head))]); err != nil {
			return k, err
		}
		return heardKey{taxonomy.Day(binary.BigEndian.Uint32(head[:])), taxonomy.SiteID(b[len(head):]), taxonomy.Signal(head[4]), taxonomy.Verdict(head[5])}, nil
	},
	val: func(b []byte, n uint64) []byte { return binary.AppendUvarint(b, n) },
	unval: func(b []byte) (uint64, error) {
		d := fields{b: b}
		n := d.uvarint()
		return n, d.end()
	},
}

package fold

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Hash identifies an event for duplicates: the first 16 bytes of SHA-256 over
// site, visitor key and event ID (R10).
type Hash [16]byte

func hashOf(site taxonomy.SiteID, v taxonomy.VisitorKey, e taxonomy.EventID) Hash {
	var buf [64 + 1 + 32]byte
	b := append(buf[:0], site...)
	b = append(b, 0)
	b = append(b, v[:]...)
	b = append(b, e[:]...)
	sum := sha256.Sum256(b)
	return Hash(sum[:16])
}

// duplicateWindow is how far apart two receipts of one event may lie to be
// copies of each other (R10).
const duplicateWindow = 48 * taxonomy.Hour

// Seen answers for the event IDs that are in checkpointed files. An error stops
// the fold: whoever guesses counts an event twice (R10).
type Seen interface {
	// Has reports whether h was received within 48 h of the given receipt.
	Has(h Hash, received taxonomy.Millis) (bool, error)
}

// A seen file holds the hashes of one hour of receipt:
//
//	0   magic "EBBSEEN", version u8 = 1
//	8   hour i64 · entries u32 · bytes of the filter u32
//	24  filter: blocks of 64 bytes, see filterAdd
//	    entries, in order: hash 16 bytes, milliseconds within the hour u32
//	    CRC-32C of all before u32
const (
	seenMagic  = "EBBSEEN"
	seenHeader = 24
	seenEntry  = 20
)

type seenItem struct {
	hash Hash
	at   taxonomy.Millis
}

func buildSeen(hour int64, items []seenItem) []byte {
	slices.SortFunc(items, func(a, b seenItem) int {
		if c := bytes.Compare(a.hash[:], b.hash[:]); c != 0 {
			return c
		}
		return int(a.at - b.at)
	})
	filter := make([]byte, 64*max(1, (len(items)*10+511)/512))
	for i := range items {
		filterAdd(filter, items[i].hash)
	}
	b := make([]byte, 0, seenHeader+len(filter)+len(items)*seenEntry+4)
	b = append(b, seenMagic...)
	b = append(b, 1)
	b = binary.LittleEndian.AppendUint64(b, uint64(hour))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(items)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(filter)))
	b = append(b, filter...)
	for i := range items {
		b = append(b, items[i].hash[:]...)
		b = binary.LittleEndian.AppendUint32(b, uint32(items[i].at-taxonomy.Millis(hour)*taxonomy.Hour))
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// filterAdd sets six bits of one 64-byte block: a blocked Bloom filter with ten
// bits an entry, of which one cache line is read.
func filterAdd(f []byte, h Hash) {
	block, bits := filterPlace(f, h)
	for range 6 {
		p := bits & 511
		block[p>>3] |= 1 << (p & 7)
		bits >>= 9
	}
}

func filterHas(f []byte, h Hash) bool {
	block, bits := filterPlace(f, h)
	for range 6 {
		p := bits & 511
		if block[p>>3]&(1<<(p&7)) == 0 {
			return false
		}
		bits >>= 9
	}
	return true
}

func filterPlace(f []byte, h Hash) ([]byte, uint64) {
	n := uint64(len(f) / 64)
	i := binary.LittleEndian.Uint64(h[:8]) % n
	return f[64*i : 64*i+64], binary.LittleEndian.Uint64(h[8:])
}

// seenFile is an open seen file. Its filter is in memory; its entries are read
// where the filter says yes.
type seenFile struct {
	hour    int64
	n       int
	filter  []byte
	entries int64 // offset
	r       retention.BlobReader
}

func openSeen(r retention.BlobReader) (*seenFile, error) {
	size := r.Blob().Bytes
	bad := func(what string) (*seenFile, error) {
		return nil, fmt.Errorf("%w: event IDs %s: %s", retention.ErrCorrupt, r.Blob().Name, what)
	}
	if size < seenHeader+4 {
		return bad("cut short")
	}
	// The whole file is read once for its checksum; it stays in the system's
	// cache, not in ours.
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(sum, io.NewSectionReader(r, 0, size-4)); err != nil {
		return nil, fmt.Errorf("read event IDs %s: %w", r.Blob().Name, err)
	}
	var tail [4]byte
	if _, err := r.ReadAt(tail[:], size-4); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read event IDs %s: %w", r.Blob().Name, err)
	}
	if sum.Sum32() != binary.LittleEndian.Uint32(tail[:]) {
		return bad("checksum differs")
	}
	var head [seenHeader]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("read event IDs %s: %w", r.Blob().Name, err)
	}
	if string(head[:7]) != seenMagic || head[7] != 1 {
		return bad("not of this format")
	}
	f := &seenFile{
		hour:   int64(binary.LittleEndian.Uint64(head[8:])),
		n:      int(binary.LittleEndian.Uint32(head[16:])),
		filter: make([]byte, binary.LittleEndian.Uint32(head[20:])),
		r:      r,
	}
	f.entries = seenHeader + int64(len(f.filter))
	if len(f.filter) == 0 || len(f.filter)%64 != 0 || f.entries+int64(f.n)*seenEntry+4 != size {
		return bad("lengths do not fit")
	}
	if _, err := r.ReadAt(f.filter, seenHeader); err != nil {
		return nil, fmt.Errorf("read event IDs %s: %w", r.Blob().Name, err)
	}
	return f, nil
}

func (f *seenFile) entry(i int) (e seenItem, err error) {
	var b [seenEntry]byte
	if _, err := f.r.ReadAt(b[:], f.entries+int64(i)*seenEntry); err != nil {
		return e, fmt.Errorf("read event IDs %s: %w", f.r.Blob().Name, err)
	}
	copy(e.hash[:], b[:])
	e.at = taxonomy.Millis(f.hour)*taxonomy.Hour + taxonomy.Millis(binary.LittleEndian.Uint32(b[16:]))
	return e, nil
}

// has reports whether the file has h with a receipt within the window.
func (f *seenFile) has(h Hash, received taxonomy.Millis) (bool, error) {
	if !filterHas(f.filter, h) {
		return false, nil
	}
	lo, hi := 0, f.n
	for lo < hi {
		m := (lo + hi) / 2
		e, err := f.entry(m)
		if err != nil {
			return false, err
		}
		if bytes.Compare(e.hash[:], h[:]) < 0 {
			lo = m + 1
		} else {
			hi = m
		}
	}
	for ; lo < f.n; lo++ {
		e, err := f.entry(lo)
		if err != nil || e.hash != h {
			return false, err
		}
		if near(e.at, received) {
			return true, nil
		}
	}
	return false, nil
}

func (f *seenFile) all() ([]seenItem, error) {
	items := make([]seenItem, f.n)
	for i := range items {
		var err error
		if items[i], err = f.entry(i); err != nil {
			return nil, err
		}
	}
	return items, nil
}

func near(a, b taxonomy.Millis) bool {
	d := a - b
	return d <= duplicateWindow && d >= -duplicateWindow
}

// seenFiles is Seen over the files of a checkpoint. The map is replaced, never
// changed, so that readers need no lock.
type seenFiles struct{ hours map[int64][]*seenFile }

func (s *seenFiles) Has(h Hash, received taxonomy.Millis) (bool, error) {
	if len(s.hours) == 0 {
		return false, nil
	}
	hour := received.Hour()
	for d := int64(0); d <= 48; d++ {
		for _, at := range [2]int64{hour - d, hour + d} {
			for _, f := range s.hours[at] {
				if ok, err := f.has(h, received); ok || err != nil {
					return ok, err
				}
			}
			if d == 0 {
				break
			}
		}
	}
	return false, nil
}

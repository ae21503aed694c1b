package embedded

import (
	"encoding/binary"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Keys in Pebble. Integers are big-endian, so that the order of bytes is the
// order of numbers; the first byte names the table.
//
// Events, 45 bytes:
//
//	0      'E'
//	1–4    day, as uint32 of day + 2³¹
//	5–20   visitor key
//	21–36  writer
//	37–44  seq
//
// Keyed, plain 'K' and swapped 'S':
//
//	0      'K' or 'S'
//	1      length n of the space's name
//	2–n+1  name
//	then   length m of the partition, uint16
//	then   partition, m bytes
//	then   item, to the end
//
// The partition's length stands before it, so that no partition is the
// beginning of another; items are in order of their bytes, as Scan promises.
//
// Leases:
//
//	0      'L'
//	1–     name
const (
	tableEvents  = 'E'
	tablePlain   = 'K'
	tableSwapped = 'S'
	tableLeases  = 'L'
)

const eventKeySize = 45

func appendDay(b []byte, d taxonomy.Day) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(int64(d)+1<<31))
}

func dayOf(b []byte) taxonomy.Day {
	return taxonomy.Day(int64(binary.BigEndian.Uint32(b)) - 1<<31)
}

// dayKey is below every event of the day, and above those of days before.
func dayKey(d taxonomy.Day) []byte { return appendDay([]byte{tableEvents}, d) }

// visitorKey is below every event of the visitor on the day.
func visitorKey(d taxonomy.Day, v taxonomy.VisitorKey) []byte {
	return append(dayKey(d), v[:]...)
}

func eventKey(d taxonomy.Day, v taxonomy.VisitorKey, r taxonomy.Ref) []byte {
	b := append(make([]byte, 0, eventKeySize), tableEvents)
	b = append(appendDay(b, d), v[:]...)
	b = append(b, r.Writer[:]...)
	return binary.BigEndian.AppendUint64(b, r.Seq)
}

// parseEventKey is the inverse of eventKey.
func parseEventKey(b []byte) (d taxonomy.Day, v taxonomy.VisitorKey, r taxonomy.Ref, err error) {
	if len(b) != eventKeySize || b[0] != tableEvents {
		return 0, v, r, fmt.Errorf("%w: a key of %d bytes among events", retention.ErrCorrupt, len(b))
	}
	copy(v[:], b[5:])
	copy(r.Writer[:], b[21:])
	r.Seq = binary.BigEndian.Uint64(b[37:])
	return dayOf(b[1:]), v, r, nil
}

// spacePrefix is the beginning of all keys of a space.
func spacePrefix(s retention.KeyedSpace) []byte {
	table := byte(tablePlain)
	if s.Swapped {
		table = tableSwapped
	}
	return append([]byte{table, byte(len(s.Name))}, s.Name...)
}

// partitionPrefix is the beginning of all keys of a partition.
func partitionPrefix(s retention.KeyedSpace, partition string) []byte {
	b := binary.BigEndian.AppendUint16(spacePrefix(s), uint16(len(partition)))
	return append(b, partition...)
}

func keyedKey(s retention.KeyedSpace, k retention.Key) []byte {
	return append(partitionPrefix(s, k.Partition), k.Item...)
}

// parseKeyedKey is the inverse of keyedKey.
func parseKeyedKey(b []byte) (s retention.KeyedSpace, k retention.Key, err error) {
	bad := fmt.Errorf("%w: a key of %d bytes among keyed items", retention.ErrCorrupt, len(b))
	if len(b) < 2 || b[0] != tablePlain && b[0] != tableSwapped || len(b) < 2+int(b[1])+2 {
		return s, k, bad
	}
	s.Swapped = b[0] == tableSwapped
	n := int(b[1])
	s.Name, b = string(b[2:2+n]), b[2+n:]
	m := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; len(b) < m {
		return s, k, bad
	}
	return s, retention.Key{Partition: string(b[:m]), Item: string(b[m:])}, nil
}

func leaseKey(name string) []byte { return append([]byte{tableLeases}, name...) }

// after returns the least key that is above every key with the prefix, or nil
// if there is none.
func after(prefix []byte) []byte {
	b := append([]byte(nil), prefix...)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return b[:i+1]
		}
	}
	return nil
}

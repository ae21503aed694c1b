package audience

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
)

// A member file is who is in one audience. All numbers are little endian.
//
//	byte 0   8  magic "EBBMEMBR"
//	     8   4  version, 1
//	    12   4  shards, S
//	    16   8  epoch
//	    24   8  generation that wrote it
//	    32   8  members
//	    40  16·S  for each shard: 8 bytes offset, 8 bytes length of its bitmap
//	    …       the bitmaps, one after the other, in roaring's portable format
//	  last   4  CRC-32C of all bytes before
const (
	memberMagic   = "EBBMEMBR"
	memberVersion = 1
	memberHeader  = 40
	maxShards     = 1 << 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeMembers returns the bytes of a member file.
func encodeMembers(epoch, generation uint64, set index.Set) ([]byte, error) {
	b := append([]byte(nil), memberMagic...)
	b = binary.LittleEndian.AppendUint32(b, memberVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(set)))
	b = binary.LittleEndian.AppendUint64(b, epoch)
	b = binary.LittleEndian.AppendUint64(b, generation)
	b = binary.LittleEndian.AppendUint64(b, set.Count())
	b = append(b, make([]byte, 16*len(set))...)
	for s, bm := range set {
		if bm == nil {
			bm = roaring.New()
		}
		from := len(b)
		buf := bytes.NewBuffer(b)
		if _, err := bm.WriteTo(buf); err != nil {
			return nil, fmt.Errorf("encode shard %d: %w", s, err)
		}
		b = buf.Bytes()
		at := b[memberHeader+16*s:]
		binary.LittleEndian.PutUint64(at, uint64(from))
		binary.LittleEndian.PutUint64(at[8:], uint64(len(b)-from))
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// decodeMembers reads a member file. It keeps no reference to b. Bytes that are
// not such a file give retention.ErrCorrupt and what is wrong.
func decodeMembers(b []byte) (index.Set, error) {
	bad := func(format string, args ...any) (index.Set, error) {
		return nil, fmt.Errorf("member file: "+format+": %w", append(args, retention.ErrCorrupt)...)
	}
	if len(b) < memberHeader+4 {
		return bad("%d bytes are too few", len(b))
	}
	if string(b[:8]) != memberMagic {
		return bad("no magic")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != memberVersion {
		return bad("version %d, this program reads %d", v, memberVersion)
	}
	body := b[:len(b)-4]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return bad("checksum does not match")
	}
	shards := int(binary.LittleEndian.Uint32(b[12:]))
	next := uint64(memberHeader + 16*shards)
	if shards > maxShards || next > uint64(len(body)) {
		return bad("%d shards do not fit", shards)
	}
	set := index.NewSet(shards)
	for s := range set {
		at := b[memberHeader+16*s:]
		off, n := binary.LittleEndian.Uint64(at), binary.LittleEndian.Uint64(at[8:])
		if off != next || n > uint64(len(body))-off {
			return bad("shard %d lies outside", s)
		}
		bm, err := readBitmap(body[off : off+n])
		if err != nil {
			return bad("shard %d: %v", s, err)
		}
		set[s] = bm
		next = off + n
	}
	if next != uint64(len(body)) {
		return bad("%d bytes beyond the last shard", uint64(len(body))-next)
	}
	if n := binary.LittleEndian.Uint64(b[32:]); n != set.Count() {
		return bad("%d members, its header says %d", set.Count(), n)
	}
	return set, nil
}

// readBitmap reads one portable bitmap that takes all of b. The library trusts
// its input more than bytes from a disk deserve, so whatever it makes of them
// is validated, and its panic is an error.
func readBitmap(b []byte) (bm *roaring.Bitmap, err error) {
	defer func() {
		if p := recover(); p != nil {
			bm, err = nil, fmt.Errorf("bitmap: %v", p)
		}
	}()
	bm = roaring.New()
	n, err := bm.ReadFrom(bytes.NewReader(b))
	if err == nil && n != int64(len(b)) {
		err = fmt.Errorf("bitmap of %d bytes in %d", n, len(b))
	}
	if err == nil && !bm.IsEmpty() {
		err = bm.Validate()
	}
	return bm, err
}

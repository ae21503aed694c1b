package audience

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"

	"github.com/ebb-dmp/ebb/retention"
)

// A sealed document is one line "magic version crc32c-of-the-rest\n" and JSON.
// People can read it, and a flipped bit is found.
const sealedVersion = 1

func seal(magic string, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", magic, err)
	}
	return append(fmt.Appendf(nil, "%s %d %08x\n", magic, sealedVersion, crc32.Checksum(body, castagnoli)), body...), nil
}

func unseal(magic string, b []byte, v any) error {
	line, body, ok := bytes.Cut(b, []byte("\n"))
	var got string
	var version int
	var crc uint32
	if n, err := fmt.Sscanf(string(line), "%s %d %08x", &got, &version, &crc); !ok || n != 3 || err != nil || got != magic {
		return fmt.Errorf("%s: no header: %w", magic, retention.ErrCorrupt)
	}
	if version != sealedVersion {
		return fmt.Errorf("%s: version %d, this program reads %d: %w", magic, version, sealedVersion, retention.ErrCorrupt)
	}
	if crc32.Checksum(body, castagnoli) != crc {
		return fmt.Errorf("%s: checksum does not match: %w", magic, retention.ErrCorrupt)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%s: %v: %w", magic, err, retention.ErrCorrupt)
	}
	return nil
}

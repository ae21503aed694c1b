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
	return append([]byte(header(magic, body)+"\n"), body...), nil
}

func header(magic string, body []byte) string {
	return fmt.Sprintf("%s %d %08x", magic, sealedVersion, crc32.Checksum(body, castagnoli))
}

func unseal(magic string, b []byte, v any) error {
	line, body, ok := bytes.Cut(b, []byte("\n"))
	want := header(magic, body)
	if ok && string(line) == want {
		return decode(magic, body, v)
	}
	var version int
	if n, err := fmt.Sscanf(string(line), magic+" %d", &version); !ok || n != 1 || err != nil {
		return fmt.Errorf("%s: no header: %w", magic, retention.ErrCorrupt)
	}
	if version != sealedVersion {
		return fmt.Errorf("%s: version %d, this program reads %d: %w", magic, version, sealedVersion, retention.ErrCorrupt)
	}
	return fmt.Errorf("%s: checksum does not match: %w", magic, retention.ErrCorrupt)
}

func decode(magic string, body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%s: %v: %w", magic, err, retention.ErrCorrupt)
	}
	return nil
}

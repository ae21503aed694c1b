package embedded

import "github.com/ebb-dmp/ebb/retention"

// For tests of the format.
var (
	FormatLine = formatLine
	EventKey   = eventKey
	KeyedKey   = keyedKey

	PebbleOptions = pebbleOptions
)

func EventValue(e *retention.StoredEvent) []byte { return appendEventValue(nil, e) }

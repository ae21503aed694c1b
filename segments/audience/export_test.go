package audience

// For tests that read and write the bytes of files.
var (
	EncodeMembers = encodeMembers
	DecodeMembers = decodeMembers
	Invert        = invert
)

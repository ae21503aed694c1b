package api

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"

	"crypto/sha256"
)

// etag is the version of a document as HTTP says it: a strong tag, since the
// same version is the same bytes.
func etag(version uint64) string { return `"` + strconv.FormatUint(version, 10) + `"` }

// matches reads a list of entity tags, "*" among them, and says whether version
// is one. A weak tag never matches: If-Match compares strongly. ok is false if
// the list cannot be read.
func matches(list string, version uint64, weak bool) (match, ok bool) {
	for _, tag := range strings.Split(list, ",") {
		tag = strings.TrimSpace(tag)
		if tag == "*" {
			match = true
			continue
		}
		strong, isWeak := strings.CutPrefix(tag, "W/")
		if len(strong) < 2 || strong[0] != '"' || strong[len(strong)-1] != '"' || strings.Contains(strong[1:len(strong)-1], `"`) {
			return false, false
		}
		match = match || strong == etag(version) && (weak || !isWeak)
	}
	return match, true
}

// precondition checks If-Match of a change to a document that is there.
func precondition(what, ifMatch string, version uint64) error {
	if ifMatch == "" {
		return newProblem(http.StatusPreconditionRequired, codeNeedsMatch, "%s: send If-Match with the ETag that you read, such as %s, so that nobody's change is lost", what, etag(version))
	}
	match, ok := matches(ifMatch, version, false)
	if !ok {
		return newProblem(http.StatusBadRequest, codeBadRequest, `%s: If-Match is no list of entity tags; send it as it stood in ETag, such as %s`, what, etag(version))
	}
	if !match {
		return newProblem(http.StatusPreconditionFailed, codeChanged, "%s: it was changed meanwhile and is now of version %d; read it again", what, version)
	}
	return nil
}

// cursor names the last entry of a page. It holds the hash of the list it is of,
// so that one given to another list is refused. It is not signed: whoever may
// ask here may see every entry, so there is nothing to gain by making one up.
func cursor(list, last string) string {
	return base64.RawURLEncoding.EncodeToString(append(listHash(list), last...))
}

const hashBytes = 6

func listHash(list string) []byte {
	h := sha256.Sum256([]byte(list))
	return h[:hashBytes:hashBytes]
}

// after returns the last entry of the page before, "" at the start.
func after(list, cur string) (string, error) {
	if cur == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(cur)
	if err != nil || len(b) <= hashBytes || string(b[:hashBytes]) != string(listHash(list)) {
		return "", badCursor()
	}
	return string(b[hashBytes:]), nil
}

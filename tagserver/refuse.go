package tagserver

// RefusesValue reports whether a value looks personal, by the detectors that
// every event passes: imports ask it for theirs, so that a file brings in
// nothing that a page may not send.
func RefusesValue(key, value string) bool {
	return findPII(key) != "" || findPII(value) != "" || findHash(value) != ""
}

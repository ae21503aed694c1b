package tagserver

import (
	"net/netip"
	"strings"
)

const (
	piiAddress piiClass = "network address"
	piiToken   piiClass = "token or key"
	piiHash    piiClass = "hash, as e-mail addresses are hashed"
)

// tokenPrefixes begin keys and tokens of widespread services: whoever has one
// can act as somebody.
var tokenPrefixes = []string{"eyJ", "ghp_", "gho_", "github_pat_", "glpat-", "sk_live_", "pk_live_", "rk_live_", "xoxb-", "xoxp-", "AKIA", "ASIA", "AIza", "ya29", "EAAC"}

// findToken looks for tokens, and for addresses of networks and machines.
func findToken(s string) piiClass {
	for i := 0; i < len(s); {
		start := i
		for i < len(s) && (isAlnum(s[i]) || strings.IndexByte("_-.:", s[i]) >= 0) {
			i++
		}
		if i == start {
			i++
			continue
		}
		if c := classOfToken(s[start:i], start > 0 && s[start-1]|0x20 == ' ' && bearer(s[:start])); c != "" {
			return c
		}
	}
	return ""
}

func bearer(before string) bool {
	before = strings.TrimRight(before, " ")
	return len(before) >= 6 && strings.EqualFold(before[len(before)-6:], "bearer")
}

func classOfToken(t string, afterBearer bool) piiClass {
	if afterBearer && len(t) >= 8 {
		return piiToken
	}
	if len(t) >= 20 {
		// Two parts of a JSON Web Token, wherever they begin: "token:eyJ….eyJ…".
		if at := strings.Index(t, "eyJ"); at >= 0 && strings.Contains(t[at:], ".eyJ") {
			return piiToken
		}
		last := t[strings.LastIndexByte(t, ':')+1:]
		for _, p := range tokenPrefixes {
			for _, t := range [...]string{t, last} {
				if len(t) >= 20 && strings.HasPrefix(t, p) && (p != "eyJ" || strings.IndexByte(t, '.') > 0) {
					return piiToken
				}
			}
		}
	}
	t = strings.Trim(t, ".-_:")
	if isMAC(t) || isIPv6(t) || isIPv4(t) {
		return piiAddress
	}
	return ""
}

// isIPv4 takes four numbers of at most 255 with dots for an address, unless few
// of them have two digits: then it is the number of a version (1.2.3.4,
// 142.0.0.0), or an address that nobody has at home.
func isIPv4(t string) bool {
	if host, port, ok := strings.Cut(t, ":"); ok && len(port) <= 5 {
		t = host
	}
	if len(t) < 7 || len(t) > 15 || strings.Count(t, ".") != 3 {
		return false
	}
	a, err := netip.ParseAddr(t)
	if err != nil {
		return false
	}
	large := 0
	for _, b := range a.As4() {
		if b >= 10 {
			large++
		}
	}
	return large >= 2
}

func isIPv6(t string) bool {
	if strings.Count(t, ":") < 2 || len(t) < 8 {
		return false
	}
	a, err := netip.ParseAddr(t)
	return err == nil && a.Is6()
}

func isMAC(t string) bool {
	if len(t) != 17 {
		return false
	}
	for i := range len(t) {
		if i%3 == 2 {
			if t[i] != t[2] || t[i] != ':' && t[i] != '-' {
				return false
			}
		} else if unhex(t[i]) < 0 {
			return false
		}
	}
	return true
}

// findHash looks for what a hash of an address looks like: as much hex in a row as
// MD5 makes, or more. A hashed address identifies a person as the address does.
// The exact lengths of MD5, SHA-1, SHA-256 and SHA-512 would be the obvious test;
// a letter glued to one gets past it, also if it is itself hex. It is asked of
// values only: in a path such a part becomes ":id", and an event's own id is hashed
// with a key before it is kept.
func findHash(s string) piiClass {
	if len(s) < 32 {
		return ""
	}
	for round := 0; ; round++ {
		digits, n := 0, 0
		for i := 0; i < len(s); i++ {
			if unhex(s[i]) < 0 {
				digits, n = 0, 0
				continue
			}
			if n++; isDigit(s[i]) {
				digits++
			}
			if n >= leastHash && digits > 0 {
				return piiHash
			}
		}
		d := percentDecode(s)
		if d == s || round == piiRounds {
			return ""
		}
		s = d
	}
}

// leastHash is how long MD5 is in hex, the shortest that addresses are hashed by.
const leastHash = 32

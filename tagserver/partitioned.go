package tagserver

import "strconv"

// CookiePartitioned is the ID in third-party mode (Options.Partitioned): a cookie
// of its own for each site that embeds the page's tag, kept by the browser under
// that site (CHIPS), so that the same browser on two sites has two IDs that
// nothing joins. The name is part of the signature, so neither kind of ID is ever
// taken for the other.
const CookiePartitioned = "__Host-ebbp"

// cookieMode is which cookies a request reads and sets.
type cookieMode struct {
	// cross: the page belongs to another site than this host, and third-party mode
	// is on. The browser says so (Sec-Fetch-Site); what says nothing, as an old
	// browser, gets cookies that it keeps only if the site is the same.
	cross bool
}

func (s *Server) modeOf(h *head) cookieMode {
	return cookieMode{cross: s.o.Partitioned && h.fetchSite == "cross-site"}
}

// id is the name of the ID's cookie.
func (m cookieMode) id() string {
	if m.cross {
		return CookiePartitioned
	}
	return CookieID
}

// cookie returns a Set-Cookie value. There is no other place that makes one.
func (m cookieMode) cookie(name, value string, seconds int) string {
	c := name + "=" + value + "; Path=/; Max-Age=" + strconv.Itoa(seconds) + "; Secure; HttpOnly; SameSite="
	if m.cross {
		return c + "None; Partitioned"
	}
	return c + "Lax"
}

package demo

import (
	"net/http"
	"net/url"
)

// secureJar treats http://localhost as browsers do: a place where Secure cookies
// are kept. Go's jar would not send them back.
type secureJar struct{ http.CookieJar }

func (j secureJar) SetCookies(u *url.URL, c []*http.Cookie) { j.CookieJar.SetCookies(https(u), c) }
func (j secureJar) Cookies(u *url.URL) []*http.Cookie       { return j.CookieJar.Cookies(https(u)) }

func https(u *url.URL) *url.URL {
	v := *u
	v.Scheme = "https"
	return &v
}

package tagserver

import (
	"errors"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Macros of addresses. The first two are the pseudonym; the others are what IAB's
// documents call consent macros.
const (
	idMacro  = "${EBB_ID}" // in templates, and in a redirect of a request
	uidMacro = "$UID"      // in a redirect of a request, as ad exchanges and Prebid Server write it
)

// expand fills an address's macros. Values are percent-encoded. A consent macro
// that names a vendor is filled for that vendor alone, and one that nobody knows
// is taken out, so that no partner takes a macro for a value.
func expand(address, id string, to *Destination, c *wireConsent) string {
	address = strings.ReplaceAll(address, idMacro, url.QueryEscape(id))
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(address, "${")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return b.String() // what follows is no macro and no address
		}
		b.WriteString(url.QueryEscape(consentMacro(name, to, c)))
		address = after
	}
}

func consentMacro(name string, to *Destination, c *wireConsent) string {
	for _, of := range []struct{ name, value string }{{"GDPR_CONSENT", c.TCF}, {"GPP_STRING", c.GPP}} {
		if rest, ok := strings.CutPrefix(name, of.name); ok {
			vendor, named := strings.CutPrefix(rest, "_")
			if rest == "" || named && to.GVLID > 0 && vendor == strconv.Itoa(to.GVLID) {
				return of.value
			}
			return ""
		}
	}
	switch name {
	case "GDPR":
		if c.GDPR == "0" || c.GDPR == "1" {
			return c.GDPR
		}
	case "GPP_SID":
		return c.GPPSID
	case "US_PRIVACY":
		return c.USP
	}
	return ""
}

// errRedirect is all that a caller is told of an address that is not allowed.
var errRedirect = errors.New("the address of redirect= is not https, or its host is not one of the destination's")

// redirectOf checks the address that a request asks to be sent to, with the
// visitor's pseudonym in the place of $UID or ${EBB_ID}: https, and to a host that
// the destination lists, or this would be a door to anywhere. A listed host of
// this machine itself may be asked by http, for development.
func redirectOf(address string, to *Destination) (string, error) {
	if len(address) > maxURL {
		return "", errRedirect
	}
	for i := 0; i < len(address); i++ {
		if address[i] <= ' ' || address[i] >= 0x7f || address[i] == '\\' || address[i] == '#' {
			return "", errRedirect
		}
	}
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.Opaque != "" || strings.ContainsAny(u.Host, "${}%") {
		return "", errRedirect
	}
	listed := false
	for _, h := range to.Hosts {
		listed = listed || strings.EqualFold(h, u.Host)
	}
	if !listed || u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return "", errRedirect
	}
	return strings.ReplaceAll(address, uidMacro, idMacro), nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || host == "localhost"
}

// hostOf returns host and port of an https origin, empty if it is none.
func hostOf(origin string) string {
	if h, ok := strings.CutPrefix(origin, "https://"); ok {
		return h
	}
	if h, ok := strings.CutPrefix(origin, "http://"); ok {
		u, err := url.Parse(origin)
		if err == nil && loopback(u.Hostname()) {
			return h
		}
	}
	return ""
}

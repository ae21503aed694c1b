package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
)

// verifyParty says whether page and edge are of one registrable domain: else
// browsers take the ID for a third party's, which most of them neither keep nor
// give back.
func verifyParty(page *url.URL, host string) tagFinding {
	const what = "first party"
	u, err := url.Parse(host)
	if err != nil {
		return tagFinding{what, false, "the edge's address cannot be read"}
	}
	p, e := strings.ToLower(page.Hostname()), strings.ToLower(u.Hostname())
	_, perr := netip.ParseAddr(p)
	_, eerr := netip.ParseAddr(e)
	same := p == e
	same = same || loopback(p) && loopback(e) && (perr == nil) == (eerr == nil)
	if !same && perr != nil && eerr != nil {
		a, aerr := publicsuffix.EffectiveTLDPlusOne(p)
		b, berr := publicsuffix.EffectiveTLDPlusOne(e)
		same = aerr == nil && berr == nil && a == b
	}
	if !same {
		return tagFinding{what, false, e + " and " + p + " are not of one domain, so browsers do not give the ID back; put the edge below the site's own domain, such as data." + strings.TrimPrefix(p, "www.")}
	}
	return tagFinding{what, true, "the ID is the site's own; on a network unlike the site's, Safari keeps it for 7 days"}
}

// verifyCookie posts what a visitor's first page does after a yes, without an
// event, and looks whether an ID comes back, and whether it is one of third-party
// mode.
func verifyCookie(ctx context.Context, h *http.Client, host, site, origin string, cross bool) (f tagFinding, partitioned bool) {
	no := func(detail string) (tagFinding, bool) { return tagFinding{"cookie", false, detail}, false }
	body := fmt.Sprintf(`{"site":%q,"consent":{"granted":true},"events":[]}`, site)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, host+"/v1/e", strings.NewReader(body))
	if err != nil {
		return no(err.Error())
	}
	req.Header.Set("Content-Type", "text/plain")
	req.Header.Set("Origin", origin)
	if cross {
		req.Header.Set("Sec-Fetch-Site", "cross-site") // as a browser says
	}
	resp, err := h.Do(req)
	if err != nil {
		return no(err.Error())
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return no(resp.Status + ": " + resp.Header.Get("X-Ebb-Reason"))
	}
	for _, c := range resp.Cookies() {
		if !strings.HasPrefix(c.Name, "__Host-ebb") || c.MaxAge <= 0 {
			continue
		}
		if !c.Secure || c.Path != "/" || c.Domain != "" || !c.HttpOnly {
			return no(c.Name + " lost attributes on its way, so browsers refuse it; let the proxy pass Set-Cookie as it is")
		}
		if u, err := url.Parse(host); err == nil && u.Scheme != "https" && !loopback(u.Hostname()) {
			return no(c.Name + " is Secure, and over plain http browsers keep it from localhost only; serve the edge by https")
		}
		return tagFinding{"cookie", true, c.Name + " for " + (time.Duration(c.MaxAge) * time.Second).String()}, c.Partitioned
	}
	if r := resp.Header.Get("X-Ebb-Reason"); r != "" {
		return no("none was set: " + r)
	}
	return no("none was set; does a proxy drop Set-Cookie?")
}

// loopback reports whether a host is this machine, from which browsers keep a
// Secure cookie over plain http too.
func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// siteFound is the site that the page's tag names.
func siteFound(found []tagFinding) string {
	for _, f := range found {
		if f.What == "site" && f.OK {
			return f.Detail
		}
	}
	return ""
}

// inspectTag asks the inspector of a site what it found.
func inspectTag(c *cli.Context, site string) (found []tagFinding, err error) {
	if site == "" {
		return nil, nil // the page names none, which was said
	}
	err = reach(c, func(cl *client.Client) error {
		var doc struct {
			Requests []struct{}
			Findings []struct {
				Code, Where, Why, Mend string
				N                      int
			}
		}
		_, err := cl.Get(c, "/api/v1/sites/"+url.PathEscape(site)+"/inspector", &doc)
		var no *client.Refused
		if errors.As(err, &no) && no.Status == http.StatusNotFound {
			found = append(found, tagFinding{"seen", false, "this installation has no site " + site + "; the page names another one's, or create it"})
			return nil
		}
		if err != nil {
			return fmt.Errorf("inspect the site: %w", err)
		}
		found = append(found, tagFinding{"seen", true, fmt.Sprintf("%d requests in the last ten minutes", len(doc.Requests))})
		for _, f := range doc.Findings {
			detail := fmt.Sprintf("%d times", f.N)
			if f.Where != "" {
				detail += " at " + f.Where
			}
			detail += ": " + f.Why
			if f.Mend != "" {
				detail += "; " + f.Mend
			}
			found = append(found, tagFinding{"seen " + f.Code, visitorsOwn(f.Code), detail})
		}
		return nil
	})
	return found, err
}

// visitorsOwn reports whether a finding is a visitor's own choice, and nothing to
// mend.
func visitorsOwn(code string) bool {
	switch code {
	case "consent/gpc", "consent/optout_cookie", "consent/explicit_no":
		return true
	}
	return false
}

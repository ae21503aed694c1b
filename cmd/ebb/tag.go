package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/tagserver"
)

type tagCommand struct {
	Snippet tagSnippetCommand `cmd:"" help:"Print what to paste into a site's pages."`
	Verify  tagVerifyCommand  `cmd:"" help:"Look at a page and say what keeps the tag from working."`
}

type tagSnippetCommand struct {
	Site string `arg:"" help:"The site's ID."`
	Host string `placeholder:"URL" help:"Origin of the public listener, as browsers reach it. Default: the setting public_origin."`
	For  string `enum:"plain,datalayer,gtm,shopify,woocommerce,magento,shopware" default:"plain" placeholder:"SHOP" help:"What the pages are made with: plain, datalayer, gtm, shopify, woocommerce, magento, shopware."`
	SRI  bool   `name:"sri" help:"A version that never changes, with its integrity hash."`
}

func (tagSnippetCommand) Help() string {
	return `Prints the two lines that bring the tag into a page: the queue, which takes calls until the tag is there, and the tag itself. Paste them into the head of every page. The console shows the same for each site.

With --for it prints what a shop pastes, which also tells products, carts and orders, and takes the visitor's answer where the shop keeps it.

Examples:

    ebb tag snippet shop --host https://data.shop.example
    ebb tag snippet shop --sri    # a version that never changes, with its integrity hash
    ebb tag snippet shop --for woocommerce`
}

// Run prints the snippet.
func (s tagSnippetCommand) Run(c *cli.Context) error {
	if s.Host == "" {
		settings, err := c.Config()
		if err != nil {
			return err
		}
		if s.Host = settings.Config.PublicOrigin; s.Host == "" {
			return cli.Usage(errors.New("where browsers reach the public listener is not known; name it with --host, or set public_origin"))
		}
	}
	text, err := tagserver.SnippetFor(s.For, strings.TrimSuffix(s.Host, "/"), s.Site, s.SRI)
	if err != nil {
		return cli.Usage(err)
	}
	_, err = io.WriteString(c.Stdout, text)
	return err
}

type tagVerifyCommand struct {
	URL     string        `arg:"" help:"A page of the site."`
	Timeout time.Duration `default:"15s" help:"How long to wait for all answers."`
	Inspect bool          `help:"Also ask the server of this data directory what its inspector saw of the site."`
}

func (tagVerifyCommand) Help() string {
	return `Fetches the page and what its tag would ask, as this machine sees them, and ends with 1 if something is wrong. It runs no script, so a tag that a tag manager loads is not found. It posts an empty batch with consent, as a visitor's first page does, to see whether an ID comes back.

With --inspect it adds what the inspector of the site found in the last ten minutes: the same codes that the console shows.

Examples:

    ebb tag verify https://shop.example/
    ebb tag verify https://shop.example/ --inspect`
}

// tagFinding is one thing that was looked at.
type tagFinding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Run looks at the page.
func (v tagVerifyCommand) Run(c *cli.Context) error {
	page, err := url.Parse(v.URL)
	if err != nil || page.Host == "" || page.Scheme != "https" && page.Scheme != "http" {
		return cli.Usage(errors.New("want the address of a page, such as https://shop.example/"))
	}
	ctx, cancel := context.WithTimeout(c, v.Timeout)
	defer cancel()
	found := verifyTag(ctx, &http.Client{}, page)
	if v.Inspect {
		seen, err := inspectTag(c, siteFound(found))
		if err != nil {
			return err
		}
		found = append(found, seen...)
	}
	var rows cli.Rows
	bad := false
	for _, f := range found {
		word := "ok"
		if !f.OK {
			word, bad = "wrong", true
		}
		rows.Add(f.What, word, f.Detail)
	}
	if err := c.Print(found, rows); err != nil {
		return err
	}
	if bad {
		return cli.ErrSilent
	}
	return nil
}

var (
	tagScript  = regexp.MustCompile(`(?is)<script\b[^>]*\bsrc\s*=\s*["']?([^"'\s>]+/t/[^"'\s>]+/ebb\.js(?:\?[^"'\s>]*)?)["']?[^>]*>`)
	tagSetting = regexp.MustCompile(`(?is)\bdata-(site|host|consent|default)\s*=\s*["']?([^"'\s>]+)`)
	metaPolicy = regexp.MustCompile(`(?is)<meta\b[^>]*http-equiv\s*=\s*["']?content-security-policy["']?[^>]*\bcontent\s*=\s*"([^"]*)"`)
)

func verifyTag(ctx context.Context, client *http.Client, page *url.URL) (found []tagFinding) {
	add := func(what string, ok bool, detail string) bool {
		found = append(found, tagFinding{what, ok, detail})
		return ok
	}
	get := func(u, origin string) (*http.Response, string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return nil, "", err
		}
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
		return resp, string(b), err
	}
	first, html, err := get(page.String(), "")
	if err != nil {
		add("page", false, err.Error())
		return found
	}
	page = first.Request.URL // after redirects
	if !add("page", first.StatusCode == http.StatusOK, first.Status) {
		return found
	}
	m := tagScript.FindStringSubmatch(html)
	if m == nil {
		add("tag", false, "no script whose address ends in /t/1/ebb.js; paste what `ebb tag snippet` prints into the page's head")
		return found
	}
	src, err := page.Parse(strings.ReplaceAll(m[1], "&amp;", "&"))
	if err != nil {
		add("tag", false, "the script's address cannot be read")
		return found
	}
	set := make(map[string]string)
	for k, v := range src.Query() { // where nobody can set attributes
		set[k] = v[0]
	}
	for _, s := range tagSetting.FindAllStringSubmatch(m[0], -1) {
		set[strings.ToLower(s[1])] = s[2]
	}
	add("tag", true, src.String())
	if !add("site", set["site"] != "", cond(set["site"] != "", set["site"], "the script has no data-site, and no site= in its address")) {
		return found
	}
	mixed := page.Scheme == "https" && src.Scheme != "https"
	add("https", !mixed, cond(mixed, "the page has https and the tag has not, so browsers do not load it", src.Scheme))
	if resp, _, err := get(src.String(), ""); err != nil {
		add("tag loads", false, err.Error())
	} else {
		add("tag loads", resp.StatusCode == http.StatusOK, resp.Status)
	}
	host := strings.TrimSuffix(cond(set["host"] != "", set["host"], src.Scheme+"://"+src.Host), "/")
	origin := page.Scheme + "://" + page.Host
	if resp, body, err := get(host+"/v1/seg?site="+url.QueryEscape(set["site"]), origin); err != nil {
		add("edge", false, err.Error())
	} else {
		ok := resp.StatusCode == http.StatusOK && resp.Header.Get("Access-Control-Allow-Origin") == origin
		detail := "takes events of " + origin
		if !ok {
			detail = resp.Status + ": " + strings.TrimSpace(body[:min(len(body), 300)])
		}
		add("edge", ok, detail)
	}
	party := verifyParty(page, host)
	cookie, partitioned := verifyCookie(ctx, client, host, set["site"], origin, !party.OK)
	if partitioned {
		party.OK, party.Detail = true, "another domain's, and the edge is in third-party mode: this site has IDs of its own, in browsers that keep partitioned cookies"
	}
	found = append(found, party, cookie)
	policies := first.Header.Values("Content-Security-Policy")
	for _, p := range metaPolicy.FindAllStringSubmatch(html, -1) {
		policies = append(policies, p[1])
	}
	for _, p := range policies {
		for _, d := range [][2]string{{"script-src", src.Scheme + "://" + src.Host}, {"connect-src", host}} {
			ok := policyAllows(p, d[0], d[1], origin)
			add("policy "+d[0], ok, cond(ok, "lets the tag through", "add "+d[1]+" to "+d[0]))
		}
	}
	asks := "nothing in the page's HTML looks like a consent platform; it may be loaded by script, or the page calls ebb('consent', …)"
	for api, name := range map[string]string{"__tcfapi": "TCF", "__gpp": "GPP", "__uspapi": "US Privacy"} {
		if strings.Contains(html, api) {
			asks = "the page speaks of " + name
		}
	}
	add("consent", set["consent"] != "none" && set["default"] != "granted", cond(set["consent"] == "none" || set["default"] == "granted", "the tag is told that nobody need be asked; is that so?", asks))
	return found
}

// policyAllows reports whether a Content-Security-Policy lets a target pass. It
// knows hosts, schemes, 'self' and *; what goes by nonce or hash it takes for
// allowed, since only the browser can tell.
func policyAllows(policy, directive, target, self string) bool {
	directives := make(map[string][]string)
	for _, d := range strings.Split(strings.ToLower(policy), ";") {
		if f := strings.Fields(d); len(f) > 0 && directives[f[0]] == nil {
			directives[f[0]] = f[1:] // the first of a name counts
		}
	}
	sources, ok := directives[directive]
	if !ok {
		if sources, ok = directives["default-src"]; !ok {
			return true
		}
	}
	u, err := url.Parse(target)
	if err != nil {
		return false
	}
	for _, s := range sources {
		host := s
		if scheme, rest, ok := strings.Cut(s, "://"); ok {
			if scheme != u.Scheme {
				continue
			}
			host = rest
		}
		host, _, _ = strings.Cut(host, "/")
		switch {
		case s == "*", s == u.Scheme+":", s == "'self'" && strings.EqualFold(self, target), strings.EqualFold(host, u.Host),
			strings.HasPrefix(host, "*.") && strings.HasSuffix(u.Host, host[1:]),
			directive == "script-src" && (strings.HasPrefix(s, "'nonce-") || strings.HasPrefix(s, "'sha") || s == "'strict-dynamic'"):
			return true
		}
	}
	return false
}

func cond(ok bool, a, b string) string {
	if ok {
		return a
	}
	return b
}

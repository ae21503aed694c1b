package tagserver

import (
	"embed"
	"fmt"
	"html"
	"slices"
	"strings"
)

// Shops are what SnippetFor knows, "plain" the first: no shop at all.
var Shops = []string{"plain", "datalayer", "gtm", "shopify", "woocommerce", "magento", "shopware"}

//go:embed tag/shops
var shopFiles embed.FS

// SnippetFor returns what the owner of a shop pastes: the tag, the helpers of
// shop.js, and what reads the shop's own pages. With frozen it names versions
// that never change, with their integrity hashes.
func SnippetFor(shop, host, site string, frozen bool) (string, error) {
	switch {
	case !slices.Contains(Shops, shop):
		return "", fmt.Errorf("%q is not one of %s", shop, strings.Join(Shops, ", "))
	case shop == "plain" && frozen:
		return FrozenSnippet(host, site), nil
	case shop == "plain":
		return Snippet(host, site), nil
	case shop == "gtm" && frozen:
		return "", fmt.Errorf("tag manager drops the attribute integrity; load the tag without it, or in the page's own HTML")
	}
	b, err := shopFiles.ReadFile("tag/shops/" + shop + ".html")
	if err != nil {
		return "", fmt.Errorf("read the snippet for %s: %w", shop, err)
	}
	text := string(b)
	if frozen {
		for _, file := range []string{"ebb.js", "shop.js"} {
			text = strings.ReplaceAll(text, `src="HOST/t/1/`+file+`"`, `src="HOST/t/`+TagVersion+"/"+file+`" integrity="`+TagIntegrity(file)+`" crossorigin="anonymous"`)
		}
	}
	return strings.NewReplacer("HOST", html.EscapeString(host), "SITE", html.EscapeString(site), "STUB", TagStub).Replace(text), nil
}

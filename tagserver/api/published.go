package api

import (
	"context"
	"net/http"
	"sync"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy/iab"
)

// iabReports are read once: the files come with the program.
var iabReports = sync.OnceValues(iab.Reports)

// published registers what was found in the published files that come with the
// program.
func (a *API) published() {
	operate(a, op{method: http.MethodGet, path: "/published-files", tag: "taxonomies", right: tagserver.May("taxonomies:read", tagserver.OfCommon), ok: 200,
		summary: "Say what was found in the published taxonomies and mappings that come with the program: rows, defects and how each was handled, codes without a place"},
		func(context.Context, *struct{}) (*bodyOut[publishedView], error) {
			all, err := iabReports()
			if err != nil {
				return nil, a.fail("read the published files", err)
			}
			return &bodyOut[publishedView]{publishedView{iab.Attribution, all}}, nil
		})
}

type publishedView struct {
	Attribution string       `json:"attribution"`
	Items       []iab.Report `json:"items"`
}

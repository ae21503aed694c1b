package app

import (
	"fmt"
	"sync"

	"github.com/ebb-dmp/ebb/taxonomy/iab"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// builtinTaxonomies are those that every installation has. They are read once.
var builtinTaxonomies = sync.OnceValues(func() ([]tree.Taxonomy, error) {
	audience, _, err := iab.Audience11()
	if err != nil {
		return nil, fmt.Errorf("read the built-in IAB Audience taxonomy: %w", err)
	}
	content, _, err := iab.Content31()
	if err != nil {
		return nil, fmt.Errorf("read the built-in IAB Content taxonomy: %w", err)
	}
	product, _, err := iab.AdProduct20()
	if err != nil {
		return nil, fmt.Errorf("read the built-in IAB Ad Product taxonomy: %w", err)
	}
	return []tree.Taxonomy{audience, content, product}, nil
})

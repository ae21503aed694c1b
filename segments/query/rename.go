package query

import (
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Rename returns an expression with every trait that it names called by another
// name, and whether any was. e stays as it is.
func Rename(e Expr, name func(taxonomy.Trait) taxonomy.Trait) (Expr, bool) {
	switch e := e.(type) {
	case And:
		of, changed := renameAll(e.Of, name)
		return And{Of: of}, changed
	case Or:
		of, changed := renameAll(e.Of, name)
		return Or{Of: of}, changed
	case Not:
		of, changed := Rename(e.Of, name)
		return Not{Of: of}, changed
	case AsOf:
		of, changed := Rename(e.Of, name)
		e.Of = of
		return e, changed
	case Trait:
		was := e.Trait
		e.Trait = name(was)
		return e, e.Trait != was
	case Sequence:
		e.Steps = slices.Clone(e.Steps)
		changed := false
		for i := range e.Steps {
			st := &e.Steps[i]
			was := st.Trait
			st.Trait = name(was)
			changed = changed || st.Trait != was
		}
		return e, changed
	}
	return e, false
}

func renameAll(of []Expr, name func(taxonomy.Trait) taxonomy.Trait) ([]Expr, bool) {
	out, changed := make([]Expr, len(of)), false
	for i := range of {
		var c bool
		out[i], c = Rename(of[i], name)
		changed = changed || c
	}
	return out, changed
}

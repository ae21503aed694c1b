package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

type (
	estimateBody struct {
		Rule     json.RawMessage `json:"rule,omitempty" doc:"The rule in JSON, or else rule_text."`
		RuleText string          `json:"rule_text,omitempty" doc:"The rule as text, such as c:products/grocery in 30d and not in list crm."`
	}
	// estimateView is an estimate as people may see it: exact, and below the
	// floor only that it is below (P7).
	estimateView struct {
		ShownCount
		Rule     json.RawMessage    `json:"rule" doc:"The rule in JSON, whichever way it came."`
		RuleText string             `json:"rule_text" doc:"The rule as text, whichever way it came."`
		Eligible ShownCount         `json:"eligible" doc:"How many visitors may be in an audience at all."`
		AsOf     time.Time          `json:"as_of"`
		Position retention.Position `json:"position"`
		Clauses  []clauseView       `json:"clauses"`
		WhyEmpty []query.Reason     `json:"why_empty,omitempty"`
	}
	clauseView struct {
		Path string `json:"path"`
		What string `json:"what"`
		ShownCount
		Kept *ShownCount `json:"kept,omitempty" doc:"Of a part of an and: how many are in it and in all parts before it."`
	}
	// ShownCount is a number of visitors as people see it. It is exported, as are
	// GenerationRef and EntryShown, because huma describes what is embedded only
	// then.
	ShownCount struct {
		Shown string  `json:"shown" doc:"The exact count; <50 if it is less; ≥50 for the parts of a whole that is less."`
		Count *uint64 `json:"count,omitempty" doc:"The exact count, absent if it is not shown."`
	}
)

// show says a count if it is not below the floor.
func show(n uint64) ShownCount {
	if n < audience.ShownFloor {
		return ShownCount{Shown: "<" + strconv.Itoa(audience.ShownFloor)}
	}
	return ShownCount{Shown: strconv.FormatUint(n, 10), Count: &n}
}

// showPart says a count that belongs to a whole below the floor: only on which
// side of the floor it lies, for exact parts could be set against each other.
func showPart(n uint64) ShownCount {
	if n < audience.ShownFloor {
		return show(n)
	}
	return ShownCount{Shown: "≥" + strconv.Itoa(audience.ShownFloor)}
}

func (a *API) estimates() {
	operate(a, op{method: http.MethodPost, path: "/estimates", tag: "audiences", right: tagserver.May("audiences:write", tagserver.OfAll), ok: 200, errors: []int{413, 415, 422, 503}, body: estimateBody{}, slow: true, summary: "Count a rule, and say what each part of it keeps"}, a.estimate)
}

func (a *API) estimate(ctx context.Context, in *postIn) (*bodyOut[estimateView], error) {
	var b estimateBody
	if faults := decode("body", in.RawBody, &b, nil); len(faults) > 0 {
		return nil, invalid("the estimate", faults)
	}
	e, err := b.expr()
	if err != nil {
		if f, ok := faultsOf("", err); ok {
			return nil, invalid("the rule", f)
		}
		return nil, a.fail("read the rule", err)
	}
	est, err := a.o.Estimate(ctx, e)
	if err != nil {
		at := "body.rule"
		if b.RuleText != "" {
			at = "body.rule_text"
		}
		if f, ok := faultsOf(at, err); ok {
			return nil, invalid("the rule", f)
		}
		return nil, a.fail("estimate", err)
	}
	v := showEstimate(est)
	v.Rule, v.RuleText = query.Print(e), query.Text(e)
	return &bodyOut[estimateView]{v}, nil
}

// expr reads the rule in the face in which it came.
func (b *estimateBody) expr() (query.Expr, error) {
	switch {
	case len(b.Rule) > 0 && b.RuleText != "":
		return nil, taxonomy.Invalid("body.rule_text", "give either rule or rule_text, not both")
	case b.RuleText != "":
		return query.ParseTextAt("body.rule_text", b.RuleText)
	case len(b.Rule) > 0:
		return query.ParseAt("body.rule", b.Rule)
	}
	return nil, taxonomy.Invalid("body.rule", "is missing: give rule or rule_text")
}

func showEstimate(e *audience.Estimate) estimateView {
	part := show
	if e.Count < audience.ShownFloor {
		part = showPart
	}
	v := estimateView{ShownCount: show(e.Count), Eligible: part(e.Eligible), AsOf: e.AsOf.Time(), Position: e.Position.Clone(), Clauses: []clauseView{}}
	small := map[string]bool{}
	for _, c := range e.Clauses {
		small[c.Path] = c.Count < audience.ShownFloor
	}
	for _, c := range e.Clauses {
		cv := clauseView{Path: c.Path, What: c.What, ShownCount: part(c.Count)}
		// Who is not in a small group would tell how small it is.
		if inner := "not"; small[inner] && c.Path == "." || small[c.Path+"."+inner] {
			cv.ShownCount = showPart(c.Count)
		}
		if c.Kept != nil {
			k := part(*c.Kept)
			cv.Kept = &k
		}
		v.Clauses = append(v.Clauses, cv)
	}
	for _, r := range e.WhyEmpty {
		v.WhyEmpty = append(v.WhyEmpty, withoutNumbers(r))
	}
	return v
}

// withoutNumbers says the reasons that count visitors in words: those counts
// are of parts of a whole that is below the floor.
func withoutNumbers(r query.Reason) query.Reason {
	switch r.Code {
	case query.NoOverlap:
		r.Why = "some visitors match this part, but none of those who match the parts before it"
	case query.NotEligible:
		r.Why = "some visitors match, but none of them may be profiled (consent, bots, gone, held out)"
	}
	return r
}

// Generations.

type (
	// GenerationRef names a generation.
	GenerationRef struct {
		Epoch     uint64    `json:"epoch"`
		Number    uint64    `json:"number"`
		Built     time.Time `json:"built"`
		Withdrawn bool      `json:"withdrawn,omitempty" doc:"Its members are not kept any more."`
	}
	generationView struct {
		GenerationRef
		AsOf        time.Time          `json:"as_of"`
		Position    retention.Position `json:"position"`
		RuleVersion uint32             `json:"rule_version"`
		Audiences   []EntryShown       `json:"audiences"`
	}
	// EntryShown is an audience in a generation as people see it.
	EntryShown struct {
		ID      taxonomy.AudienceID `json:"id"`
		Version uint64              `json:"version" doc:"Of the definition."`
		ShownCount
		Added    *uint64            `json:"added,omitempty" doc:"Against the generation before; absent if the count is not shown."`
		Removed  *uint64            `json:"removed,omitempty"`
		Fault    string             `json:"fault,omitempty" doc:"Why it could not be built, and is empty."`
		Evidence *audience.Evidence `json:"evidence,omitempty" doc:"How good a lookalike is."`
	}
	// audienceGeneration is one audience in one generation.
	audienceGeneration struct {
		GenerationRef
		AsOf     *time.Time         `json:"as_of,omitempty"`
		Position retention.Position `json:"position,omitempty"`
		EntryShown
	}
)

func refView(r audience.Ref) GenerationRef {
	return GenerationRef{Epoch: r.Epoch, Number: r.Number, Built: r.Built.Time(), Withdrawn: r.Withdrawn}
}

func showEntry(e *audience.Entry) EntryShown {
	v := EntryShown{ID: e.ID, Version: e.Version, ShownCount: show(e.Count), Fault: e.Fault, Evidence: e.Evidence}
	if v.Count != nil {
		v.Added, v.Removed = &e.Added, &e.Removed
	}
	if ev := e.Evidence; ev != nil && ev.Seed < audience.ShownFloor {
		v.Evidence = nil // it counts a seed that is not shown
	}
	return v
}

func showGeneration(g *audience.Generation) generationView {
	v := generationView{GenerationRef: GenerationRef{Epoch: g.Epoch, Number: g.Number, Built: g.Built.Time()},
		AsOf: g.Clock.Time(), Position: g.Position.Clone(), RuleVersion: g.RuleVersion, Audiences: []EntryShown{}}
	for i := range g.Audiences {
		v.Audiences = append(v.Audiences, showEntry(&g.Audiences[i]))
	}
	return v
}

func (a *API) generations() {
	operate(a, op{method: http.MethodGet, path: "/generations", tag: "generations", right: tagserver.May("audiences:read", tagserver.OfAll), ok: 200, errors: []int{400}, summary: "List the generations that are kept, newest first"},
		func(ctx context.Context, in *listIn) (*listOut[GenerationRef], error) {
			refs, err := a.o.Generations.List(ctx)
			if err != nil {
				return nil, a.fail("list generations", err)
			}
			all := []GenerationRef{}
			for _, r := range refs {
				all = append(all, refView(r))
			}
			return pagedBy("/generations", in, all, (*GenerationRef).name)
		})
	operate(a, op{method: http.MethodPost, path: "/generations", tag: "generations", right: tagserver.May("operation:write", tagserver.OfAll), ok: 201, errors: []int{409, 503}, slow: true, summary: "Build a generation now"},
		func(ctx context.Context, _ *struct{}) (*bodyOut[generationView], error) {
			var built *audience.Built
			err := a.audited(ctx, defs.Entry{What: "build", Kind: "generation"}, func() (err error) {
				built, err = a.o.Build(ctx)
				return err
			})
			if built == nil || built.Generation == nil {
				if err == nil {
					err = fmt.Errorf("nothing was built")
				}
				return nil, a.fail("build a generation", err)
			}
			if err != nil {
				// It is published; what failed came after.
				a.log.Error("after a build", "error", err)
			}
			return &bodyOut[generationView]{showGeneration(built.Generation)}, nil
		})
	operate(a, op{method: http.MethodGet, path: "/audiences/{id}/generations", tag: "audiences", right: tagserver.May("audiences:read", tagserver.OfOwn), ok: 200, errors: []int{400, 404}, summary: "List an audience's counts by generation, newest first"}, a.audienceGenerations)
}

func (r *GenerationRef) name() string { return fmt.Sprintf("%d.%d", r.Epoch, r.Number) }

func (a *API) audienceGenerations(ctx context.Context, in *listOfIn) (*listOut[audienceGeneration], error) {
	if err := meets(ctx, a, a.audiences("audiences", "audience", nil), in.ID); err != nil {
		return nil, err
	}
	refs, err := a.o.Generations.List(ctx)
	if err != nil {
		return nil, a.fail("list generations", err)
	}
	all := []audienceGeneration{}
	for _, r := range refs {
		v := audienceGeneration{GenerationRef: refView(r)}
		g, err := a.o.Generations.Open(ctx, r)
		if err != nil {
			if ctx.Err() != nil {
				return nil, a.fail("open a generation", ctx.Err())
			}
			// One manifest that is damaged hides no other.
			a.log.Error("open a generation", "generation", r.String(), "error", err)
			v.ID, v.Fault = taxonomy.AudienceID(in.ID), "the generation's manifest cannot be read; see the server's log"
			all = append(all, v)
			continue
		}
		e, ok := g.Entry(taxonomy.AudienceID(in.ID))
		if !ok {
			continue
		}
		at := g.Clock.Time()
		v.AsOf, v.Position, v.EntryShown = &at, g.Position.Clone(), showEntry(&e)
		all = append(all, v)
	}
	return pagedBy("/audiences/"+in.ID+"/generations", &listIn{in.Limit, in.Cursor}, all, func(g *audienceGeneration) string { return g.name() })
}

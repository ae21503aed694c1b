package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// Taxonomies and rules that were changed come into force by a re-fold (R18): what
// they say is folded again over the stored 90 days, and a checkpoint switches all
// answers. This is what begins re-folds, drives them and tells of them.
//
// One runs at a time. Changes that are made while it runs wait for it, and then
// come into force together: the last state of the definitions is all that counts.

// ruleSet is a classifier with the text under which checkpoints hold it.
type ruleSet struct {
	*rules.Classifier
	version uint32
	text    []byte
}

func (r ruleSet) Version() uint32 { return r.version }
func (r ruleSet) Text() []byte    { return r.text }

// Lives and Now are those of fold.Words.
func (r ruleSet) Lives() map[taxonomy.Trait]int       { return r.Forest().Lives() }
func (r ruleSet) Now(t taxonomy.Trait) taxonomy.Trait { return r.Forest().Now(t) }

// ruleText is the text of a ruleSet: the operator's definitions. What is built in
// is the program's.
type ruleText struct {
	Taxonomies []tree.Taxonomy `json:"taxonomies"`
	Rules      []rules.Rule    `json:"rules"`
}

func textOf(snap *defs.Snapshot) ([]byte, error) {
	var t ruleText
	var err error
	if t.Taxonomies, err = defs.LoadAll[tree.Taxonomy](snap, defs.Taxonomy); err != nil {
		return nil, err
	}
	if t.Rules, err = defs.LoadAll[rules.Rule](snap, defs.Rule); err != nil {
		return nil, err
	}
	return json.Marshal(t)
}

// compileText makes the classifier of a text again.
func compileText(version uint32, text []byte) (fold.Classifier, error) {
	var t ruleText
	if err := json.Unmarshal(text, &t); err != nil {
		return nil, fmt.Errorf("%w: a text of rules: %v", retention.ErrCorrupt, err)
	}
	forest, err := grow(t.Taxonomies)
	if err != nil {
		return nil, err
	}
	c, err := rules.Compile(version, forest, t.Rules)
	if err != nil {
		return nil, fmt.Errorf("compile the rules: %w", err)
	}
	return ruleSet{c, version, text}, nil
}

// newest are the rules as they are defined now, which may not be in force yet.
func (c *catalog) newest() ruleSet { return ruleSet{c.classifier, c.classifier.Version(), c.ruleText} }

// partOf is fold.Options.Part.
func partOf(c fold.Classifier, r *rules.Reach) (fold.Classifier, error) { return c.(ruleSet).Part(r) }

// refoldSetting is what of re-folds outlives a process. The version of a re-fold
// is used once, also if it never said that it began; Change is that of the
// definitions, which names the operation.
type refoldSetting struct {
	// Attempt is the greatest version of a re-fold, Change that of the definitions
	// which it brings into force, by group.
	Groups map[taxonomy.Group]refoldAttempt `json:"groups,omitempty"`
	// Cancelled is the change that is not to come into force, until the definitions
	// change again or it is resumed. 0: none.
	Cancelled uint32 `json:"cancelled,omitempty"`
	// Past are the last operations that are over, the newest first.
	Past []api.Operation `json:"past,omitempty"`
}

type refoldAttempt struct {
	Attempt uint32 `json:"attempt"`
	Change  uint32 `json:"change"`
	// From is the version that was in force, Columns how many traits may change.
	From    uint32          `json:"from"`
	Columns int             `json:"columns"`
	Begun   taxonomy.Millis `json:"begun"`
}

const (
	refoldSettingID = "refold"
	// keptOperations is how many that are over are told of.
	keptOperations = 20
	// refoldShare is the part of its time that the scan reads while the log has
	// more to fold: a fifth.
	refoldShare = 5
	// maxPause bounds one wait of the scan.
	maxPause = 250 * time.Millisecond
)

func (a *App) refoldSetting() (s refoldSetting, version uint64, err error) {
	doc, ok := a.defs.Snapshot().Get(defs.Setting, refoldSettingID)
	if ok {
		if err := json.Unmarshal(doc.Body, &s); err != nil {
			return s, 0, fmt.Errorf("read what is known of re-folds: %w", err)
		}
	}
	if s.Groups == nil {
		s.Groups = map[taxonomy.Group]refoldAttempt{}
	}
	return s, doc.Version, nil
}

// setRefold changes the setting. Another node's change meanwhile is kept.
func (a *App) setRefold(ctx context.Context, change func(*refoldSetting)) error {
	for tries := 1; ; tries++ {
		s, version, err := a.refoldSetting()
		if err != nil {
			return err
		}
		change(&s)
		body, err := json.Marshal(s)
		if err != nil {
			return err
		}
		_, err = a.defs.Put(ctx, defs.Setting, refoldSettingID, body, version)
		if err == nil || !errors.Is(err, retention.ErrConflict) || tries == 5 {
			if err != nil {
				return fmt.Errorf("keep what is known of re-folds: %w", err)
			}
			return nil
		}
		if _, err := a.defs.Refresh(ctx); err != nil {
			return err
		}
	}
}

// pace lets the fold go on: the scan waits four times as long as it read.
func (a *App) pace() func(context.Context) error {
	last := a.env.Now()
	return func(ctx context.Context) error {
		spent := a.env.Now().Sub(last)
		pause := min(max(spent*(refoldShare-1), time.Millisecond), maxPause)
		if !a.wait(ctx, pause) {
			return ctx.Err()
		}
		last = a.env.Now()
		return nil
	}
}

// stepRefold does the next piece of a group's re-fold: begins it, reads a part, or
// ends it. more says that there is more to do at once, and switched that new
// columns are in force.
func (a *App) stepRefold(ctx context.Context, g *group) (more, switched bool, err error) {
	a.refolding.Lock()
	defer a.refolding.Unlock()
	if !g.builds() {
		return false, false, nil
	}
	f, c := g.fold.Load(), a.catalog.Load()
	now, ok := f.InForce().(fold.Source)
	if !ok {
		return false, false, nil
	}
	s, _, err := a.refoldSetting()
	if err != nil {
		return false, false, err
	}
	try := s.Groups[g.n]
	wanted := !bytes.Equal(now.Text(), c.ruleText)
	p, running := f.Refolding()
	switch {
	case running && !p.Switching && (s.Cancelled >= try.Change || !wanted):
		// Cancelled, or the definitions are again as those in force.
		if err := f.CancelRefold(ctx); err != nil && !errors.Is(err, fold.ErrNoRefold) {
			return false, false, err
		}
		return true, false, a.refoldOver(ctx, g, p, api.OperationCancelled)
	case running:
		before := f.InForce().Version()
		left, err := f.RefoldPart(ctx)
		if errors.Is(err, fold.ErrNoRefold) {
			// The checkpoint that it begins or ends with failed.
			_, err := f.Checkpoint(ctx)
			return err == nil, false, err
		}
		if err != nil || left && !f.Due() {
			return err == nil, false, err
		}
		if p, running = f.Refolding(); !running {
			return true, false, nil
		}
		if _, err := f.Checkpoint(ctx); err != nil {
			return false, false, err
		}
		if f.InForce().Version() == before {
			return true, false, nil
		}
		a.log.Info("changed rules are in force, as if they had always been", "group", g.n, "version", p.Version, "events", p.Read)
		return true, true, a.refoldOver(ctx, g, p, api.OperationDone)
	case !wanted || s.Cancelled == c.classifier.Version():
		return false, false, nil
	}
	return a.beginRefold(ctx, g, f, now, c)
}

func (a *App) beginRefold(ctx context.Context, g *group, f *fold.Fold, now fold.Source, c *catalog) (more, switched bool, err error) {
	old, ok := now.(ruleSet)
	if !ok {
		return false, false, fmt.Errorf("begin a re-fold: the rules in force are %T", now)
	}
	ch := fold.Change{Reach: old.Change(c.classifier)}
	to := c.newest()
	try := refoldAttempt{Change: to.version, From: old.version, Columns: len(ch.Reach.Traits) + len(ch.Reach.Prefixes), Begun: a.env.millis()}
	err = a.setRefold(ctx, func(s *refoldSetting) {
		// Greater than what was in force, and than what a process meant to begin that
		// crashed: events may lie under that.
		try.Attempt = max(s.Groups[g.n].Attempt+1, old.version+1, to.version)
		s.Groups[g.n] = try
	})
	if err != nil {
		return false, false, err
	}
	to.version = try.Attempt
	ch.To = to
	err = f.Refold(ctx, ch)
	if errors.Is(err, fold.ErrBehind) {
		return false, false, nil // when the log is there
	}
	if err != nil {
		return false, false, err
	}
	p, running := f.Refolding()
	if running {
		a.log.Info("changed rules are folded again over the stored days", "group", g.n, "version", try.Attempt, "columns", try.Columns, "events", p.Total)
		return true, false, nil
	}
	// There was nothing to read.
	return true, true, a.refoldOver(ctx, g, fold.Progress{Version: try.Attempt}, api.OperationDone)
}

// refoldOver remembers a re-fold that ended.
func (a *App) refoldOver(ctx context.Context, g *group, p fold.Progress, state string) error {
	at := a.env.millis().Time()
	return a.setRefold(ctx, func(s *refoldSetting) {
		try := s.Groups[g.n]
		if try.Attempt != p.Version {
			try = refoldAttempt{Attempt: p.Version, Change: p.Version, Begun: p.Started}
		}
		o := operationOf(try, g.n, len(a.fold.list))
		o.State, o.Ended, o.Read, o.Total = state, &at, p.Read, max(p.Read, p.Total)
		if state == api.OperationDone {
			o.Total, o.Progress = o.Read, 1
		} else if o.Total > 0 {
			o.Progress = float64(o.Read) / float64(o.Total)
		}
		for i := range s.Past {
			if s.Past[i].ID == o.ID {
				s.Past = append(s.Past[:i], s.Past[i+1:]...)
				break
			}
		}
		s.Past = append([]api.Operation{o}, s.Past...)
		s.Past = s.Past[:min(len(s.Past), keptOperations)]
	})
}

// operationID names the re-fold of a change of the definitions. With several
// groups each has its own.
func operationID(change uint32, g taxonomy.Group, groups int) string {
	if groups == 1 {
		return fmt.Sprintf("refold-%d", change)
	}
	return fmt.Sprintf("refold-%d-%d", change, g)
}

func operationOf(try refoldAttempt, g taxonomy.Group, groups int) api.Operation {
	o := api.Operation{ID: operationID(try.Change, g, groups), Kind: api.KindRefold, From: try.From, To: try.Change, Columns: try.Columns}
	if try.Begun > 0 {
		at := try.Begun.Time()
		o.Started = &at
	}
	return o
}

// refoldLoop drives the re-folds of the groups that are built here, and builds a
// generation when new columns are in force.
func (a *App) refoldLoop(ctx context.Context) error {
	for {
		busy := false
		for _, g := range a.fold.list {
			more, switched, err := a.stepRefold(ctx, g)
			if err != nil && ctx.Err() == nil {
				a.log.Error("re-fold", "group", g.n, "error", err)
			}
			busy = busy || more && err == nil
			if switched && a.leads() && a.current.Load() != nil {
				a.attempt(ctx, "build after a re-fold", func(ctx context.Context) error { _, err := a.Build(ctx); return err })
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !busy && !a.wait(ctx, refoldLook) {
			return ctx.Err()
		}
	}
}

// refoldLook is how often the loop looks whether the definitions changed.
const refoldLook = 200 * time.Millisecond

// Settle brings what is defined into force, if this node builds: it returns when
// no re-fold is left. What the log has not delivered yet is left to the loop.
func (a *App) Settle(ctx context.Context) error {
	for _, g := range a.fold.list {
		for more := true; more; {
			var err error
			if more, _, err = a.stepRefold(ctx, g); err != nil {
				return err
			}
		}
	}
	return nil
}

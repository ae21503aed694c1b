package api

import (
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Reach is what other definitions would make of what is known, beside what those
// in force make of it. Both are exact, and of one position.
type Reach struct {
	AsOf     taxonomy.Millis
	Position retention.Position
	// Audiences are all that are in one of the two, by ID.
	Audiences []AudienceReach
	// Destinations are all that are in one of the two, by ID.
	Destinations []DestinationReach
	// Refold are the audiences that a change of rules or taxonomies reaches: the
	// numbers here hold for them once the re-fold that it begins is over.
	Refold []taxonomy.AudienceID
}

// Difference is how many there were and would be, and how many would come and go.
type Difference struct{ Before, After, Added, Removed uint64 }

// AudienceReach is of one audience. Was and Is tell whether it is in force, and
// whether it would be.
type AudienceReach struct {
	ID      taxonomy.AudienceID
	Was, Is bool
	Difference
	Fault string // why it would be empty
}

// DestinationReach is of one destination: what it would hold, by audience.
type DestinationReach struct {
	ID        taxonomy.DestinationID
	Was, Is   bool
	Audiences []AudienceReach
}

type (
	audienceReachView struct {
		ID      taxonomy.AudienceID `json:"id"`
		Before  *ShownCount         `json:"before,omitempty" doc:"Absent if there was none."`
		After   *ShownCount         `json:"after,omitempty" doc:"Absent if there will be none."`
		Added   ShownCount          `json:"added"`
		Removed ShownCount          `json:"removed"`
		Fault   string              `json:"fault,omitempty" doc:"Why it will be empty."`
		Refold  bool                `json:"refold,omitempty" doc:"A change of rules or taxonomies reaches it: the numbers hold once the re-fold that begins with the change is over."`
	}
	destinationReachView struct {
		ID        taxonomy.DestinationID `json:"id"`
		Was       bool                   `json:"was"`
		Is        bool                   `json:"is"`
		Audiences []audienceReachView    `json:"audiences" doc:"Whose rows change: whom it holds by consent, matching and floor, before and after."`
	}
	reachView struct {
		AsOf         time.Time              `json:"as_of"`
		Position     retention.Position     `json:"position"`
		Audiences    []audienceReachView    `json:"audiences" doc:"Every audience whose members change."`
		Unchanged    int                    `json:"unchanged" doc:"How many audiences keep their members."`
		Destinations []destinationReachView `json:"destinations" doc:"Every destination that will hold others."`
	}
)

func (a *AudienceReach) changes() bool {
	return a.Was != a.Is || a.Added > 0 || a.Removed > 0 || a.Fault != ""
}

func (a *AudienceReach) view() audienceReachView {
	v := audienceReachView{ID: a.ID, Fault: a.Fault}
	if a.Was {
		n := show(a.Before)
		v.Before = &n
	}
	if a.Is {
		n := show(a.After)
		v.After = &n
	}
	v.Added, v.Removed = showDifference(a.Was, a.Before, a.After, a.Added, a.Removed)
	return v
}

func (r *Reach) view() reachView {
	v := reachView{AsOf: r.AsOf.Time(), Position: r.Position.Clone(), Audiences: []audienceReachView{}, Destinations: []destinationReachView{}}
	refold := map[taxonomy.AudienceID]bool{}
	for _, id := range r.Refold {
		refold[id] = true
	}
	for i := range r.Audiences {
		x := &r.Audiences[i]
		if !x.changes() {
			v.Unchanged++
			continue
		}
		one := x.view()
		one.Refold = refold[x.ID]
		v.Audiences = append(v.Audiences, one)
	}
	for i := range r.Destinations {
		d := &r.Destinations[i]
		one := destinationReachView{ID: d.ID, Was: d.Was, Is: d.Is, Audiences: []audienceReachView{}}
		for j := range d.Audiences {
			if d.Audiences[j].changes() {
				one.Audiences = append(one.Audiences, d.Audiences[j].view())
			}
		}
		if d.Was != d.Is || len(one.Audiences) > 0 {
			v.Destinations = append(v.Destinations, one)
		}
	}
	return v
}

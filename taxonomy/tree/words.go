package tree

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Differences says in plain English what differs between two versions of a
// taxonomy, a sentence each. What stands in another order is the same. Before is nil
// if there was none.
func Differences(before, after *Taxonomy) []string {
	out := []string{}
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if before == nil {
		say("It is new.")
		before = &Taxonomy{}
	} else if before.Title != after.Title {
		say("The taxonomy was called “%s” and is called “%s”.", before.Title, after.Title)
	}
	if before.Version != after.Version {
		say("Its publisher's version was %s and is %s.", cmp.Or(before.Version, "none"), cmp.Or(after.Version, "none"))
	}
	if before.Segtax != after.Segtax {
		say("Its segtax number was %d and is %d.", before.Segtax, after.Segtax)
	}
	was, is := byID(before), byID(after)
	became := map[string]*Category{} // of an ID that was taken over
	for i := range after.Categories {
		for _, id := range after.Categories[i].Merged {
			became[id] = &after.Categories[i]
		}
	}
	for i := range after.Categories {
		c := &after.Categories[i]
		if was[c.ID] == nil {
			say("“%s” (%s) is new, %s.", c.Title, c.ID, place(c, is))
			was[c.ID] = &Category{ID: c.ID, Title: c.Title, Parents: c.Parents, Note: c.Note, Tiers: c.Tiers}
		}
		out = append(out, categoryDifferences(was[c.ID], c, was, is)...)
	}
	for i := range before.Categories {
		c := &before.Categories[i]
		if is[c.ID] != nil {
			continue
		}
		if into := became[c.ID]; into != nil {
			say("“%s” (%s) becomes part of “%s”.", c.Title, c.ID, into.Title)
		} else {
			say("“%s” (%s) is gone.", c.Title, c.ID)
		}
	}
	return out
}

func categoryDifferences(old, c *Category, was, is map[string]*Category) (out []string) {
	say := func(format string, args ...any) {
		out = append(out, fmt.Sprintf("“%s” ", c.Title)+fmt.Sprintf(format, args...)+".")
	}
	if old.Title != c.Title {
		say("was called “%s”", old.Title)
	}
	if !sameIDs(old.Parents, c.Parents) {
		say("was %s and is %s", place(old, was), place(c, is))
	}
	if old.Sensitive != c.Sensitive {
		if c.Sensitive {
			say("is sensitive now, with all below it")
		} else {
			say("is no longer marked sensitive")
		}
	}
	if now, then := cmp.Or(c.Life, taxonomy.RetentionDays), cmp.Or(old.Life, taxonomy.RetentionDays); now != then {
		say("counts for %d days; before, for %d", now, then)
	}
	switch {
	case old.Archived == c.Archived:
	case c.Archived == 0:
		say("is restored, as if it had never been archived")
	case old.Archived == 0:
		say("is archived: nothing comes in from %s on", c.Archived)
	default:
		say("was archived from %s on, and is from %s on", old.Archived, c.Archived)
	}
	for _, id := range c.Merged {
		// One that was a category is told of where it is gone.
		if !slices.Contains(old.Merged, id) && was[id] == nil {
			say("takes over the ID %s", id)
		}
	}
	for _, id := range old.Merged {
		if !slices.Contains(c.Merged, id) {
			say("no longer takes over the ID %s", id)
		}
	}
	if old.Note != c.Note {
		say("has another description")
	}
	if !slices.Equal(old.Tiers, c.Tiers) {
		say("has another printed path")
	}
	return out
}

// place says where a category is.
func place(c *Category, all map[string]*Category) string {
	if len(c.Parents) == 0 {
		return "at the top"
	}
	var names []string
	for _, p := range c.Parents {
		name := p // a draft may name what is not there
		if k := all[p]; k != nil {
			name = "“" + k.Title + "”"
		}
		names = append(names, name)
	}
	return "below " + strings.Join(names, " and ")
}

func byID(t *Taxonomy) map[string]*Category {
	m := map[string]*Category{}
	for i := range t.Categories {
		m[t.Categories[i].ID] = &t.Categories[i]
	}
	return m
}

func sameIDs(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

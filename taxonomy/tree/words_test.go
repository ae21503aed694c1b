package tree

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestWhatDiffersBetweenTreesIsSaidInWords(t *testing.T) {
	read := func(s string) *Taxonomy {
		x := new(Taxonomy)
		if err := json.Unmarshal([]byte(s), x); err != nil {
			t.Fatal(err)
		}
		return x
	}
	const food = `{"id":"p","title":"Products","categories":[{"id":"food","title":"Food"},{"id":"wine","title":"Wine","parents":["food"]},{"id":"cakes","title":"Cakes","parents":["food"]},{"id":"pets","title":"Pets","life":30}]}`
	for _, c := range []struct {
		before, after string
		want          []string
	}{
		{food, food, []string{}},
		// Another order is the same.
		{food, `{"id":"p","title":"Products","categories":[{"id":"pets","title":"Pets","life":30},{"id":"food","title":"Food"},{"id":"cakes","title":"Cakes","parents":["food"]},{"id":"wine","title":"Wine","parents":["food"]}]}`, []string{}},
		{food, `{"id":"p","title":"Goods","segtax":600,"categories":[{"id":"food","title":"Food"},{"id":"pastry","title":"Pastry","parents":["food"],"merged":["cakes"]},
			{"id":"wine","title":"Wines","sensitive":true,"archived":"2026-11-26","note":"x"},{"id":"tea","title":"Tea","parents":["food","nowhere"],"sensitive":true,"life":7}]}`,
			[]string{"The taxonomy was called “Products” and is called “Goods”.", "Its segtax number was 0 and is 600.", "“Pastry” (pastry) is new, below “Food”.",
				"“Wines” was called “Wine”.", "“Wines” was below “Food” and is at the top.", "“Wines” is sensitive now, with all below it.", "“Wines” is archived: nothing comes in from 2026-11-26T00:00:00Z on.", "“Wines” has another description.",
				"“Tea” (tea) is new, below “Food” and nowhere.", "“Tea” is sensitive now, with all below it.", "“Tea” counts for 7 days; before, for 90.",
				"“Cakes” (cakes) becomes part of “Pastry”.", "“Pets” (pets) is gone."}},
	} {
		if got := Differences(read(c.before), read(c.after)); !slices.Equal(got, c.want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
	if got := Differences(nil, read(food)); len(got) != 6 || got[0] != "It is new." || got[5] != "“Pets” counts for 30 days; before, for 90." {
		t.Errorf("a new one: %q", got)
	}
}

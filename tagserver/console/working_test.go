package console

import (
	"testing"
)

func TestOverviewShowsWhatRunsInTheBackground(t *testing.T) { // R18
	w := normal()
	w.working = []Work{{Title: "Changed rules are being applied", Progress: 0.429, Next: "ebb operations cancel refold-7 stops it."}}
	_, body := serve(t, w).get(t, base)
	contains(t, body, `Changed rules are being applied <progress max="100" value="42">`, "the overview")
	contains(t, body, "ebb operations cancel refold-7 stops it.", "the overview")
}

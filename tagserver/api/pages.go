package api

import (
	"slices"
	"strconv"
)

// pagedBy cuts the page that is asked for out of a list whose entries have names
// and no order of their own. If the last entry of the page before is gone, the
// list has changed too much to go on: the caller begins again.
func pagedBy[E any](list string, in *listIn, all []E, name func(*E) string) (*listOut[E], error) {
	last, err := after(list, in.Cursor)
	if err != nil {
		return nil, err
	}
	from := 0
	if in.Cursor != "" {
		at := slices.IndexFunc(all, func(e E) bool { return name(&e) == last })
		if at < 0 {
			return nil, badCursor()
		}
		from = at + 1
	}
	out := &listOut[E]{Body: page[E]{Items: all[from:min(from+in.Limit, len(all))]}}
	if n := len(out.Body.Items); n > 0 && from+n < len(all) {
		out.follow(list, in.Limit, name(&out.Body.Items[n-1]))
	}
	return out, nil
}

// newestFirst cuts the page that is asked for out of a list of what happened, the
// newest first. The cursor is an instant and how many entries of that instant
// were shown, so that a list that grows or loses its oldest meanwhile goes on
// where it was.
func newestFirst[E any](list string, limit int, cur string, all []E, at func(*E) int64) (*listOut[E], error) {
	last, err := after(list, cur)
	if err != nil {
		return nil, err
	}
	from := 0
	if cur != "" {
		if len(last) < 2 {
			return nil, badCursor()
		}
		instant, err := strconv.ParseInt(last[1:], 10, 64)
		if err != nil {
			return nil, badCursor()
		}
		shown := int(last[0])
		for from < len(all) && (at(&all[from]) > instant || at(&all[from]) == instant && shown > 0) {
			if at(&all[from]) == instant {
				shown--
			}
			from++
		}
	}
	out := &listOut[E]{Body: page[E]{Items: all[from:min(from+limit, len(all))]}}
	if n := len(out.Body.Items); n > 0 && from+n < len(all) {
		instant, same := at(&all[from+n-1]), 0
		for i := from + n - 1; i >= 0 && at(&all[i]) == instant && same < 255; i-- {
			same++
		}
		out.follow(list, limit, string([]byte{byte(same)})+strconv.FormatInt(instant, 10))
	}
	return out, nil
}

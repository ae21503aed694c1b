package tagserver

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// CookieOff holds what the browser's visitor has switched off: no ID, but the
// visitor's own wish, as the opt-out cookie is. It outlives the ID, so a new one
// (R27, or after an erasure) begins with it: every request that has both says it
// in the log, once more.
const CookieOff = "__Host-ebbx"

// Bounds of a choice, so that the cookie fits into any browser's 4,096 bytes.
const (
	maxOff      = 64
	maxOffBytes = 3500
)

// offValue is a cookie's value of switched-off categories: "1." and
// taxonomy/category, joined by "~".
func offValue(off []taxonomy.Trait) string {
	var b strings.Builder
	b.WriteString("1.")
	for i, t := range off {
		if i > 0 {
			b.WriteByte('~')
		}
		b.WriteString(strings.TrimPrefix(string(t), "c:"))
	}
	return b.String()
}

// parseOff reads such a value. What cannot be a category is left out: the cookie
// can only take away, and nothing but categories.
func parseOff(value string) (off []taxonomy.Trait) {
	list, ok := strings.CutPrefix(value, "1.")
	if !ok || len(value) > maxOffBytes {
		return nil
	}
	for list != "" && len(off) < maxOff {
		var one string
		one, list, _ = strings.Cut(list, "~")
		if t, ok := categoryTrait(one); ok && !slices.Contains(off, t) {
			off = append(off, t)
		}
	}
	slices.Sort(off)
	return off
}

// categoryTrait reads "taxonomy/category".
func categoryTrait(s string) (taxonomy.Trait, bool) {
	tax, cat, ok := strings.Cut(s, "/")
	if !ok || taxonomy.CheckSlug("taxonomy", tax) != nil || taxonomy.CheckSlug("category", cat) != nil {
		return "", false
	}
	return taxonomy.CategoryTrait(tax, cat), true
}

// choose makes a record of what an ID's browser has switched off.
func (s *Server) choose(v *visit, key taxonomy.VisitorKey, off []taxonomy.Trait, returning bool, site *taxonomy.Site) {
	r := s.statement(v, taxonomy.RecordChoice, site)
	r.Visitor, r.Returning, r.Off, r.Consent = key, returning, off, taxonomy.Consent{}
	v.records = append(v.records, r)
	v.group = s.group(key)
}

// offReply is the answer to POST /privacy/category.
type offReply struct {
	Off     []string `json:"off"` // every category that is off now
	Durable string   `json:"durable"`
	Receipt string   `json:"receipt,omitempty"`
}

// offWish is what was posted.
type offWish struct {
	Category string `json:"category"` // taxonomy/category
	Off      bool   `json:"off"`
}

func readWish(body []byte, form bool) (w offWish, ok bool) {
	if !form {
		return w, json.Unmarshal(body, &w) == nil
	}
	q, err := url.ParseQuery(string(body))
	if err != nil || len(q["category"]) != 1 || len(q["off"]) != 1 || q["off"][0] != "0" && q["off"][0] != "1" {
		return w, false
	}
	return offWish{q["category"][0], q["off"][0] == "1"}, true
}

// handleCategory answers POST /privacy/category: one category is switched off or
// on again, in the cookie and for the ID that the request carries, in the log
// before the answer. It needs no consent, since it gives nothing.
func (s *Server) handleCategory(c echo.Context) error {
	w := s.getWork()
	defer s.putWork(w)
	form, err := s.choice(c, w)
	if err != nil {
		return err
	}
	wish, ok := readWish(w.body, form)
	t, good := categoryTrait(wish.Category)
	if !ok || !good {
		s.metrics.refused.WithLabelValues(string(taxonomy.ReasonMalformed)).Inc()
		return NewProblem(http.StatusUnprocessableEntity, string(taxonomy.ReasonMalformed), "name one category and whether it is off: category=taxonomy/category&off=1").At("body.category", "not a category")
	}
	v := &w.visit
	v.ring = s.o.Keys()
	hd := headOf(c.Request())
	v.mode = s.modeOf(&hd)
	cookies := readCookies(hd.cookies, v.mode, v.ring, v.now.Day())
	var ids []taxonomy.VisitorKey
	off := cookies.off
	for _, i := range cookies.ids[:cookies.n] {
		key, err := v.ring.VisitorKey(taxonomy.SpaceCookie, i.id[:], i.issued)
		if err != nil {
			return s.unavailable(err)
		}
		if s.o.Erased.Erased(key) {
			continue
		}
		ids = append(ids, key)
		// A browser may have lost the cookie, and not the wish. One that has it knows
		// better than the fold, which may be a moment behind.
		if s.o.Visitors != nil && !cookies.chose {
			off = append(off, s.o.Visitors.Off(key)...)
		}
	}
	off = slices.DeleteFunc(off, func(x taxonomy.Trait) bool { return x == t })
	if wish.Off {
		off = append(off, t)
	}
	slices.Sort(off)
	off = slices.Compact(off)
	if value := offValue(off); len(off) > maxOff || len(value) > maxOffBytes {
		s.metrics.refused.WithLabelValues(string(taxonomy.ReasonTooMany)).Inc()
		return NewProblem(http.StatusUnprocessableEntity, string(taxonomy.ReasonTooMany), "so many categories are off already; switch off one that is above them, or opt out of all").At("body.category", "too many")
	}
	for _, key := range ids {
		s.choose(v, key, off, true, nil)
	}
	ctx, cancel := s.storeContext(c.Request().Context())
	defer cancel()
	reached := s.o.Ack
	if len(v.records) > 0 {
		if reached, err = s.append(ctx, v.records, v.group, s.o.Ack); err != nil {
			s.log.Warn("choice not taken", "error", err)
			return storeProblem(err)
		}
	}
	// Also if nothing is off any more: that is what the cookie says then.
	v.set(v.mode.cookie(CookieOff, offValue(off), optOutSeconds))
	v.writeCookies(c.Response().Header())
	reply := offReply{Off: []string{}, Durable: reached.String()}
	for _, x := range off {
		reply.Off = append(reply.Off, strings.TrimPrefix(string(x), "c:"))
	}
	reply.Receipt = s.receipt(v, "choice", off, reply.Durable)
	if !form {
		return writeJSON(c, http.StatusOK, &reply)
	}
	return backToPrivacy(c, http.StatusOK, reply.Receipt, "Your choice is taken.")
}

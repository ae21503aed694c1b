package tagserver

import (
	"mime"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// choiceReply is the answer to POST /v1/optout and /v1/optin.
type choiceReply struct {
	OptedOut bool `json:"opted_out"`
	// Erased: the request carried an ID, and its erasure is in the log.
	Erased  bool   `json:"erased"`
	Durable string `json:"durable"`
	// Receipt is a signed statement of it: see Receipt.
	Receipt string `json:"receipt,omitempty"`
}

// choice is what both posts have in common: who may, and how the body is read.
// The body says nothing that matters: a choice needs no reason, and what a page
// puts there is not looked at.
func (s *Server) choice(c echo.Context, w *work) (form bool, err error) {
	r := c.Request()
	h := c.Response().Header()
	h[headerCORP] = sameOrigin
	s.allowOrigin(h, r)
	w.visit.now = s.o.Now()
	if !s.mayChoose(r) {
		s.metrics.refused.WithLabelValues(string(taxonomy.ReasonWrongOrigin)).Inc()
		return false, NewProblem(http.StatusForbidden, string(taxonomy.ReasonWrongOrigin), "only a site's own pages, and ours, may post a visitor's choice").
			At("header.Origin", "not listed")
	}
	media := ""
	if t := r.Header.Get("Content-Type"); t != "" {
		if media, _, err = mime.ParseMediaType(t); err != nil {
			media = t
		}
	}
	switch media {
	case "", "application/json", "text/plain":
	case "application/x-www-form-urlencoded", "multipart/form-data":
		form = true
	default:
		s.metrics.refused.WithLabelValues(string(taxonomy.ReasonMalformed)).Inc()
		return false, NewProblem(http.StatusUnsupportedMediaType, codeType, "post a form, JSON or nothing").At("header.Content-Type", "not supported")
	}
	if p := s.readBytes(w, r); p != nil {
		s.metrics.refused.WithLabelValues(p.Code).Inc()
		return false, p
	}
	return form, nil
}

// handleOptOut answers POST /v1/optout: the erasure of every ID that the request
// carries, in the log before the answer (R24); the ID cookie goes and the
// opt-out cookie comes, which holds no ID.
func (s *Server) handleOptOut(c echo.Context) error {
	w := s.getWork()
	defer s.putWork(w)
	form, err := s.choice(c, w)
	if err != nil {
		return err
	}
	r := c.Request()
	hd := headOf(r)
	// The visitor's own no, by whatever page: as if the cookie were there.
	hd.cookies = append([]string{CookieOptOut + "=1"}, hd.cookies...)
	if err := s.identify(&w.visit, &hd, &wireConsent{}, nil, false); err != nil {
		return s.unavailable(err)
	}
	return s.answerErasure(c, w, form, "You are opted out in this browser, and what was known of it is being erased.")
}

// answerErasure answers a choice once its erasure, if it makes one, is in the
// log (R24).
func (s *Server) answerErasure(c echo.Context, w *work, form bool, sentence string) (err error) {
	v := &w.visit
	ctx, cancel := s.storeContext(c.Request().Context())
	defer cancel()
	asked := max(s.o.Ack, s.o.EraseAck)
	reached := asked
	if v.erased {
		if reached, err = s.append(ctx, v.records, v.group, asked); err != nil {
			s.log.Warn("erasure not taken", "error", err)
			return storeProblem(err)
		}
	}
	v.writeCookies(c.Response().Header())
	status := http.StatusOK
	if reached < asked {
		status = http.StatusAccepted
	}
	reply := choiceReply{OptedOut: v.decision.Consent.Signal == taxonomy.SignalOptOut, Erased: v.erased, Durable: reached.String()}
	what := "erasure"
	if reply.OptedOut {
		what = "optout"
	}
	reply.Receipt = s.receipt(v, what, nil, reply.Durable)
	return answerChoice(c, form, status, &reply, sentence)
}

// handleOptIn answers POST /v1/optin: the opt-out cookie goes. An ID that is
// still there goes too: a new one comes with the next event that consent allows
// (R23), and what was erased stays erased.
func (s *Server) handleOptIn(c echo.Context) error {
	w := s.getWork()
	defer s.putWork(w)
	form, err := s.choice(c, w)
	if err != nil {
		return err
	}
	hd := headOf(c.Request())
	v := &w.visit
	v.mode = s.modeOf(&hd)
	cookies := readCookies(hd.cookies, v.mode, s.o.Keys(), w.visit.now.Day())
	v.set(v.mode.cookie(CookieOptOut, "", 0))
	if cookies.optOut && cookies.any {
		v.set(v.mode.cookie(v.mode.id(), "", 0))
	}
	w.visit.writeCookies(c.Response().Header())
	w.visit.ring = s.o.Keys()
	durable := retention.AckLocal.String()
	return answerChoice(c, form, http.StatusOK, &choiceReply{Durable: durable, Receipt: s.receipt(&w.visit, "optin", nil, durable)},
		"You are no longer opted out in this browser.")
}

func answerChoice(c echo.Context, form bool, status int, reply *choiceReply, sentence string) error {
	if !form {
		return writeJSON(c, status, reply)
	}
	return backToPrivacy(c, status, reply.Receipt, sentence)
}

// backToPrivacy answers a form: with the visitor's own page, if it came from
// there, which says how it stands now and shows the receipt; else in a sentence.
func backToPrivacy(c echo.Context, status int, receipt, sentence string) error {
	res := c.Response()
	if ref := first(c.Request().Header["Referer"]); sameHost(originOf(ref), c.Request().Host) && status == http.StatusOK {
		// The path is ours and the receipt plain letters: it leads nowhere else.
		res.Header().Set("Location", "/privacy?receipt="+receipt)
		res.WriteHeader(http.StatusSeeOther)
		return nil
	}
	res.Header().Set(echo.HeaderContentType, "text/plain; charset=utf-8")
	res.WriteHeader(status)
	// The client may be gone; there is nobody left to tell.
	_, _ = res.Write([]byte(sentence + "\n\nReceipt: " + receipt + "\n"))
	return nil
}

// gpcStatement says that Sec-GPC is honoured, and since when this text is
// unchanged (the Global Privacy Control specification, section on the GPC
// support resource).
const gpcStatement = `{"gpc":true,"lastUpdate":"2026-11-25"}` + "\n"

func (s *Server) handleGPC(c echo.Context) error {
	res := c.Response()
	h := res.Header()
	h.Set("Cache-Control", "public, max-age=86400")
	h.Set("Access-Control-Allow-Origin", "*")
	h[echo.HeaderContentType] = jsonType
	res.WriteHeader(http.StatusOK)
	_, _ = res.Write([]byte(gpcStatement))
	return nil
}

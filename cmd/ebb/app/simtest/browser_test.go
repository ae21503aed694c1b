package simtest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const shop = "https://shop.example"

// jar keeps cookies as a browser does, with their ends.
type jar map[string]cookie

type cookie struct {
	value string
	ends  taxonomy.Millis
}

// request is one request of a browser, which may be sent again.
type request struct {
	method, path, body string
	header             []string // name, value, …
	cookies            jar
}

// send calls the public listener's handler. What comes back changes nothing
// yet: whether the browser hears it is for the caller to say.
func (w *world) send(q request) *httptest.ResponseRecorder {
	r := httptest.NewRequest(q.method, "http://edge.example"+q.path, strings.NewReader(q.body))
	r.RemoteAddr = "198.51.100.77:4711"
	r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0")
	if q.method == http.MethodPost {
		r.Header.Set("Origin", shop)
		r.Header.Set("Content-Type", "text/plain;charset=UTF-8")
	} else {
		r.Header.Set("Referer", shop+"/")
	}
	for i := 0; i < len(q.header); i += 2 {
		r.Header.Set(q.header[i], q.header[i+1])
	}
	for name, c := range q.cookies {
		if c.ends > w.now() {
			r.AddCookie(&http.Cookie{Name: name, Value: c.value})
		}
	}
	rec := httptest.NewRecorder()
	w.server.Edge().Handler(tagserver.Public).ServeHTTP(rec, r)
	return rec
}

// take does with Set-Cookie what a browser does.
func (j jar) take(now taxonomy.Millis, rec *httptest.ResponseRecorder) {
	for _, c := range rec.Result().Cookies() {
		if c.MaxAge <= 0 {
			delete(j, c.Name)
		} else {
			j[c.Name] = cookie{c.Value, now + taxonomy.Millis(c.MaxAge)*taxonomy.Second}
		}
	}
}

func (j jar) clone() jar {
	k := jar{}
	for name, c := range j {
		k[name] = c
	}
	return k
}

// setsID returns the ID cookie that an answer sets, or "".
func setsID(rec *httptest.ResponseRecorder) string {
	for _, c := range rec.Result().Cookies() {
		if c.Name == tagserver.CookieID && c.MaxAge > 0 {
			return c.Value
		}
	}
	return ""
}

type wireReply struct {
	Stored, Duplicate int
	Refused           []struct {
		I    int
		Code string
	}
	Durable string
}

func replyOf(t testing.TB, rec *httptest.ResponseRecorder) (r wireReply) {
	t.Helper()
	if err := json.Unmarshal(rec.Body.Bytes(), &r); err != nil {
		t.Fatalf("answer %d %q: %v", rec.Code, rec.Body, err)
	}
	return r
}

// get asks a handler of another listener.
func (w *world) get(l tagserver.Listener, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "http://ebb.example"+path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.server.Edge().Handler(l).ServeHTTP(rec, r)
	return rec
}

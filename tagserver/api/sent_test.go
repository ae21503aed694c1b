package api

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
)

// What was sent comes as it was: one body as itself, several as a tar, and none that
// was not sent. Only who may deliver has it, and it is in the audit log.
func TestWhatWasSentIsDownloaded(t *testing.T) {
	s := newStage(t)
	s.furnish()
	const at = "/destinations/dsp/deliveries/"
	eyes := s.key(`{"id":"eyes","role":"viewer"}`)
	s.must(201, "POST", "/destinations", `{"id":"elsewhere","title":"Elsewhere"}`)
	other := s.key(`{"id":"others","role":"operator","destinations":["elsewhere"]}`)
	var v sentView
	s.must(200, "GET", at+"three", "", eyes).into(t, &v)
	if len(v.Chunks) != 3 || v.Chunks[1].Outcome != "refused" || v.SHA256 != "whole" || v.Chunks[2].Chunk != 2 {
		t.Errorf("%+v", v)
	}
	before := len(s.trail())
	for _, header := range []string{eyes, other} {
		if a := s.call("GET", at+"three/content", "", header); a.code != 403 && a.code != 404 {
			t.Errorf("%s: %d %s", header[:20], a.code, a.body)
		}
	}
	s.must(404, "GET", at+"three", "", other)
	if len(s.trail()) != before {
		t.Error("nobody had it, and the audit log says otherwise")
	}
	a := s.must(200, "GET", at+"one/content", "")
	if string(a.body) != "abcd" || a.head.Get("X-Ebb-SHA256") != "first" || a.head.Get("Content-Disposition") != `attachment; filename="p_1"` || a.head.Get("Cache-Control") != "private, no-store" {
		t.Errorf("%q %v", a.body, a.head)
	}
	if a = s.must(200, "GET", at+"three/content?chunk=1", ""); string(a.body) != "efg" {
		t.Errorf("%q", a.body)
	}
	a = s.must(200, "GET", at+"three/content", "")
	files := tar.NewReader(bytes.NewReader(a.body))
	var got []string
	for {
		h, err := files.Next()
		if err == io.EOF {
			break
		}
		b, rerr := io.ReadAll(files)
		if err != nil || rerr != nil {
			t.Fatal(err, rerr)
		}
		got = append(got, h.Name+"="+string(b))
	}
	if strings.Join(got, " ") != `p"1=abcd p2=efg` {
		t.Errorf("%q", got)
	}
	links := s.trail()
	if len(links) != before+3 || links[0].What != "download" || links[0].Object != "dsp" || links[0].Detail != "three" || links[0].Who != "admin" {
		t.Errorf("%d entries more: %+v", len(links)-before, links[0])
	}
	for path, code := range map[string]int{"old": 410, "damaged": 503, "never": 404, "old/content": 410, "damaged/content": 503, "never/content": 404, "three/content?chunk=3": 404, "three/content?chunk=x": 404, "three/content?x=1": 400} {
		s.must(code, "GET", at+path, "")
	}
	if len(s.trail()) != before+3 {
		t.Error("what nobody had is in the audit log")
	}
}

package demo

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"time"
)

// The live stream: a few browsers that read pages, so that numbers move. Each is
// a client of the public listener like any other, cookie and consent included.
const (
	browsers   = 24
	streamStep = 500 * time.Millisecond
)

var streamPaths = []string{"/", "/wine", "/wine/red", "/recipes", "/recipes/bread", "/basket"}

type browser struct {
	client *http.Client
	new    bool
}

func (d *Demo) stream(ctx context.Context) error {
	transport := &http.Transport{DialContext: d.o.Env.Dial, MaxIdleConnsPerHost: 2}
	defer transport.CloseIdleConnections()
	list := make([]*browser, browsers)
	for i := range list {
		jar, err := cookiejar.New(nil)
		if err != nil {
			return err
		}
		list[i] = &browser{client: &http.Client{Transport: transport, Jar: secureJar{jar}, Timeout: 5 * time.Second}, new: true}
	}
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.o.Env.After(streamStep):
		}
		var r [2]byte
		if _, err := io.ReadFull(d.o.Env.Rand, r[:]); err != nil {
			return err
		}
		b := list[int(r[0])%len(list)]
		path := streamPaths[int(r[1])%len(streamPaths)]
		if err := d.view(ctx, b, path); err != nil && ctx.Err() == nil {
			d.o.Logger.Debug("live stream", "error", err)
		}
	}
}

// view posts a page view, after a first empty batch that brings the cookie.
func (d *Demo) view(ctx context.Context, b *browser, path string) error {
	if b.new {
		if err := d.post(ctx, b, []any{}); err != nil {
			return err
		}
		b.new = false
	}
	var id [12]byte
	if _, err := io.ReadFull(d.o.Env.Rand, id[:]); err != nil {
		return err
	}
	return d.post(ctx, b, []any{map[string]any{
		"id": "e" + hex.EncodeToString(id[:]), "t": d.o.Env.Now().UnixMilli(), "kind": "page", "url": d.Info.Page + path,
	}})
}

func (d *Demo) post(ctx context.Context, b *browser, events []any) error {
	body, err := json.Marshal(map[string]any{"site": d.Info.Site, "sent": d.o.Env.Now().UnixMilli(),
		"consent": map[string]any{"granted": true}, "events": events})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.Info.Public+"/v1/e", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Origin", d.Info.Page)
	req.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36")
	resp, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("post events: %s", resp.Status)
	}
	return nil
}

package demo

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// FakeDSP stands in for a partner: it pulls its manifest and files over HTTP
// under its own key, and keeps what they say, as a DSP would. It is fake in that
// it bids on nothing.
type FakeDSP struct {
	Destination taxonomy.DestinationID
	key, base   string
	env         app.Env
	client      *http.Client

	mu      sync.Mutex
	applied string // the last file applied
	full    string // the full it began with
	members map[member]time.Time
}

// member is a row that the partner holds; its value is when it ends.
type member struct{ id, audience string }

func newFakeDSP(env app.Env, id taxonomy.DestinationID) (*FakeDSP, string, error) {
	key, hash, err := delivery.NewKey(env.Rand)
	if err != nil {
		return nil, "", err
	}
	return &FakeDSP{Destination: id, key: key, env: env, members: map[member]time.Time{},
		client: &http.Client{Transport: &http.Transport{DialContext: env.Dial, MaxIdleConnsPerHost: 1}, Timeout: 10 * time.Second}}, hash, nil
}

// run pulls until the context ends.
func (p *FakeDSP) run(ctx context.Context) error {
	defer p.client.CloseIdleConnections()
	for {
		if err := p.Pull(ctx); err != nil && ctx.Err() == nil {
			// A partner's trouble is its own; it comes again.
			_ = err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.env.After(5 * time.Second):
		}
	}
}

// Pull fetches what is new and applies it.
func (p *FakeDSP) Pull(ctx context.Context) error {
	b, err := p.get(ctx, delivery.FilesPath(p.Destination))
	if err != nil {
		return err
	}
	var m delivery.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("read the manifest: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	files := m.Files
	if len(files) > 0 && files[0].Kind == delivery.Full && files[0].Name == p.full {
		for i, f := range files {
			if f.Name == p.applied {
				files = files[i+1:]
				break
			}
		}
	}
	for _, f := range files {
		if err := p.apply(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (p *FakeDSP) apply(ctx context.Context, f delivery.ManifestFile) error {
	b, err := p.get(ctx, f.URL)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != f.SHA256 {
		return fmt.Errorf("file %s differs from its hash", f.Name)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	if f.Kind == delivery.Full {
		p.members, p.full = map[member]time.Time{}, f.Name
	}
	for s := bufio.NewScanner(z); s.Scan(); {
		c := strings.Split(s.Text(), "\t")
		if len(c) != 4 {
			return fmt.Errorf("file %s: a line has %d columns", f.Name, len(c))
		}
		minutes, err := strconv.Atoi(c[3])
		if err != nil {
			return fmt.Errorf("file %s: %w", f.Name, err)
		}
		k := member{c[0], c[1]}
		if c[2] == "-" {
			delete(p.members, k)
		} else {
			p.members[k] = f.Created.Add(time.Duration(minutes) * time.Minute)
		}
	}
	p.applied = f.Name
	return nil
}

func (p *FakeDSP) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+p.key)
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return b, err
}

// Package demo shows the whole of Ebb on real behaviour, in a temporary folder:
// a year of purchases, two sites, eight audiences and a lookalike, two partners
// that pull, a page with the tag, and a small live stream.
package demo

import (
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

//go:embed data/*.gz
var data embed.FS

//go:embed page/page.html
var page []byte

// pageTitles are the pages of the demo's shop, by path.
var pageTitles = map[string]string{"/": "The demo’s shop", "/wine": "Wine in the demo’s shop", "/recipes": "Recipes in the demo’s shop"}

// Floor is the demo's export floor. An installation's is 1,000; two thousand
// households would leave little to see.
const Floor = 100

// Options are what a demo needs.
type Options struct {
	Env app.Env
	// Dir is an empty folder for everything that the demo writes.
	Dir    string
	Logger *slog.Logger
	// Cluster, if set, has the settings of a Cassandra (store, cassandra.…) in which
	// the demo makes a keyspace of its own, which goes with it. 8 shards are enough.
	Cluster *config.Config
	// Quiet leaves out the live stream, for tests that count.
	Quiet bool
}

// Info says where to look. It is what `ebb demo -o json` prints.
type Info struct {
	Public      string                 `json:"public"`
	Partner     string                 `json:"partner"`
	Private     string                 `json:"private"`
	Site        taxonomy.SiteID        `json:"site"`
	Destination taxonomy.DestinationID `json:"destination"`
	PartnerKey  string                 `json:"partner_key"`
	AdminKey    string                 `json:"admin_key"`
	Data        string                 `json:"data"`
	Page        string                 `json:"page"`
	Counts      Counts                 `json:"counts"`
}

// Counts are what the demo holds when it is ready.
type Counts struct {
	Visitors  uint64 `json:"visitors"`
	Events    uint64 `json:"events"`
	Audiences int    `json:"audiences"`
}

// Demo is a running demo.
type Demo struct {
	*app.Server
	Info     Info
	Receipt  app.ImportReceipt
	Partners []*FakeDSP
	o        Options
	page     net.Listener
	drop     func(context.Context) error // removes the keyspace; nil without one
}

// Close ends the demo, and with it its keyspace if it has one.
func (d *Demo) Close(ctx context.Context) error {
	err := d.Server.Close(ctx)
	if d.drop != nil {
		err = errors.Join(err, d.drop(ctx))
	}
	return err
}

// Start loads, builds, delivers, and serves. The caller ends it with Close.
func Start(ctx context.Context, o Options) (d *Demo, err error) {
	dir := filepath.Join(o.Dir, "data")
	flags := map[string]string{
		"data": dir, "listen.public": "127.0.0.1:0", "listen.partner": "127.0.0.1:0", "listen.private": "127.0.0.1:0",
		"export_floor": fmt.Sprint(Floor), "new_ids_per_minute": "60000",
		"build.schedule": "@every 10s", "deliver.schedule": "@every 15s", "checkpoint.interval": "5s",
	}
	if o.Cluster != nil {
		drop, err := keyspace(ctx, o, flags)
		if err != nil {
			return nil, fmt.Errorf("demo: %w", err)
		}
		defer func() {
			if err != nil || d == nil {
				_ = drop(context.WithoutCancel(ctx)) // what failed is said already
			} else {
				d.drop = drop
			}
		}()
	}
	r, err := config.Load(config.Input{CheckSchedule: app.CheckSchedule, Flags: flags})
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	ring, err := keys.Generate(o.Env.Rand, taxonomy.DayOf(o.Env.Now()))
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	save := func(change func(*keys.Ring) (*keys.Ring, error)) (*keys.Ring, error) { // in memory: the demo's data end with it
		next, err := change(ring)
		if err == nil {
			ring = next
		}
		return next, err
	}
	a, admin, err := app.Open(ctx, app.Options{Config: r.Config, Env: o.Env, Keys: ring, SaveKeys: save, Logger: o.Logger, Init: r.Cluster()})
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	d = &Demo{o: o}
	d.Info = Info{AdminKey: admin, Data: dir, Site: shop, Destination: dspAll}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("demo: %w", err), a.Close(context.WithoutCancel(ctx)))
			d = nil
		}
	}()
	if d.page, err = o.Env.Listen("tcp", "127.0.0.1:0"); err != nil {
		return d, err
	}
	d.Info.Page = "http://localhost:" + port(d.page.Addr().String())
	if err = d.load(ctx, a); err != nil {
		return d, err
	}
	if d.Server, err = a.Serve(ctx); err != nil {
		return d, err
	}
	d.Info.Public = "http://localhost:" + port(d.Address(tagserver.Public))
	d.Info.Partner = "http://" + d.Address(tagserver.Partner)
	d.Info.Private = "http://" + d.Address(tagserver.Private)
	d.servePage()
	if err = d.count(ctx); err != nil {
		return d, err
	}
	for _, p := range d.Partners {
		p.base = d.Info.Partner
		a.Go("fake DSP "+string(p.Destination), p.run)
	}
	if !o.Quiet {
		a.Go("live stream", d.stream)
	}
	return d, nil
}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}

// load defines everything, imports the purchases, builds and delivers.
func (d *Demo) load(ctx context.Context, a *app.App) error {
	products, err := read("products.csv.gz")
	if err != nil {
		return err
	}
	categories, err := productTree(products)
	if err != nil {
		return err
	}
	for _, x := range definitions(categories, d.Info.Page) {
		if err := a.Define(ctx, x.kind, x.id, x.body); err != nil {
			return err
		}
	}
	for _, dest := range destinations() {
		p, hash, err := newFakeDSP(d.o.Env, dest.ID)
		if err != nil {
			return err
		}
		dest.KeyHash = hash
		if err := a.Define(ctx, defs.Destination, string(dest.ID), dest); err != nil {
			return err
		}
		d.Partners = append(d.Partners, p)
		if dest.ID == d.Info.Destination {
			d.Info.PartnerKey = p.key
		}
	}
	if err := d.importPurchases(ctx, a, products); err != nil {
		return err
	}
	if _, err := a.Build(ctx); err != nil {
		return err
	}
	return a.DeliverAll(ctx)
}

func (d *Demo) importPurchases(ctx context.Context, a *app.App, products []byte) error {
	sales, err := read("transactions_sample.csv.gz")
	if err != nil {
		return err
	}
	mapping := Mapping()
	lookup, err := onboard.NewLookup(bytes.NewReader(products), "", mapping.Joins[0])
	if err != nil {
		return err
	}
	span, err := onboard.Scan(bytes.NewReader(sales), &mapping)
	if err != nil {
		return err
	}
	mapping.ShiftDays = int(taxonomy.DayOf(d.o.Env.Now()) - span.Last)
	d.Receipt, err = a.Import(ctx, app.ImportRequest{Source: purchases, Mapping: mapping, File: bytes.NewReader(sales),
		Lookups: map[string]*onboard.Lookup{"products": lookup}})
	return err
}

// Mapping says what the columns of the purchases mean.
func Mapping() onboard.Mapping {
	return onboard.Mapping{
		Missing: []string{"NA"},
		Visitor: "household_id", Space: "own:demo",
		Time: "transaction_timestamp", Layout: "2006-01-02 15:04:05",
		Joins: []onboard.Join{{Name: "products", On: "product_id", Key: "product_id", Columns: []string{"department", "product_category"}}},
		Event: &onboard.EventMapping{Name: "purchase", Props: []onboard.Column{{Column: "department"}, {Column: "product_category"}}},
	}
}

func read(name string) ([]byte, error) {
	f, err := data.Open("data/" + name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	return b, nil
}

// productTree makes departments and, below them, categories of the products
// that were sold.
func productTree(products []byte) (tree.Taxonomy, error) {
	t := tree.Taxonomy{ID: "products", Title: "Products of the demo's shop"}
	rows, err := csv.NewReader(bytes.NewReader(products)).ReadAll()
	if err != nil {
		return t, fmt.Errorf("read the products: %w", err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	seen := map[string]bool{}
	add := func(id, title string, parents ...string) {
		if !seen[id] && tree.CheckID(id) == nil {
			seen[id] = true
			t.Categories = append(t.Categories, tree.Category{ID: id, Title: title, Parents: parents})
		}
	}
	for _, r := range rows[1:] {
		department, category := r[column["department"]], r[column["product_category"]]
		if department == "NA" {
			continue
		}
		top := tree.Slug(department)
		add(top, title(department))
		if category != "NA" {
			add(top+"."+tree.Slug(category), title(category), top)
		}
	}
	return t, nil
}

func title(s string) string {
	if s == "" {
		return s
	}
	return s[:1] + strings.ToLower(s[1:])
}

func (d *Demo) count(ctx context.Context) error {
	accounts, err := d.Accounts(ctx)
	if err != nil {
		return err
	}
	for _, acc := range accounts {
		d.Info.Counts.Events += acc.Stored
	}
	d.Info.Counts.Visitors = uint64(d.Receipt.Visitors)
	d.Info.Counts.Audiences = len(d.Generation().Audiences)
	return nil
}

// servePage serves the pages of the demo's sites, each with the tag on it.
func (d *Demo) servePage() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		title, ok := pageTitles[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		b := bytes.ReplaceAll(page, []byte("{{TITLE}}"), []byte(title))
		b = bytes.ReplaceAll(b, []byte("{{SNIPPET}}"), []byte(tagserver.Snippet(d.Info.Public, string(d.Info.Site))))
		b = bytes.ReplaceAll(b, []byte("{{CONSOLE}}"), []byte(d.Info.Private+"/console"))
		w.Write(b)
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	d.App.Go("demo's pages", func(ctx context.Context) error {
		context.AfterFunc(ctx, func() { srv.Close() })
		if err := srv.Serve(d.page); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

package delivery_test

import (
	"context"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/delimited"
	"github.com/ebb-dmp/ebb/segments/delivery/format/google"
	"github.com/ebb-dmp/ebb/segments/delivery/format/parquet"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tradedesk"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tsv"
	"github.com/ebb-dmp/ebb/segments/delivery/format/webhook"
	"github.com/ebb-dmp/ebb/segments/delivery/format/xandr"
	"github.com/ebb-dmp/ebb/segments/delivery/format/yahoo"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// drain takes everything and keeps nothing.
type drain struct{ bytes int64 }

func (*drain) Facts() delivery.TransportFacts    { return delivery.TransportFacts{} }
func (*drain) Check(*delivery.Destination) error { return nil }
func (d *drain) Send(_ context.Context, _ *delivery.Destination, c *delivery.Chunk) error {
	n, err := io.Copy(io.Discard, io.NewSectionReader(c.Body, 0, c.Body.Size()))
	d.bytes += n
	return err
}

// benched are the formats that are measured.
var benched = map[string]delivery.Format{
	"tsv": tsv.Format{}, "webhook": webhook.Format{}, "tradedesk": tradedesk.Format{}, "google": google.Format{}, "yahoo": yahoo.Format{}, "xandr-text": xandr.Text{}, "xandr-avro": xandr.Avro{},
	"beeswax": delimited.Beeswax(), "adform": delimited.Adform(), "audience-manager": delimited.AudienceManager(), "parquet": parquet.Format{},
}

// benchDestination is one of two audiences that each of them can be sent to.
func benchDestination(format string) delivery.Destination {
	d := delivery.Destination{
		ID: dsp, Floor: 1, Format: format, CredentialsFile: "secret",
		Account: map[string]string{
			"DataProviderId": "ebb", "life_days": "90", "urn": "IXID", "gdpr": "false", "member_id": "958",
			"PID": "1", "DPID": "2", "PIDALIAS": "x", "SYNC_TYPE": "s3",
		},
		Audiences: []taxonomy.AudienceID{"cars", "sport"}, Segments: map[taxonomy.AudienceID]string{"cars": "1", "sport": "2"},
	}
	if format == "xandr-text" || format == "xandr-avro" {
		d.Push.PerMinute = 1
	}
	return d
}

// BenchmarkPush delivers a full of two audiences from a generation to bytes that
// a receiver has read, and prints members a second for each format, and bytes a
// member. EBB_BENCH_MEMBERS has how many there are (100,000).
func BenchmarkPush(b *testing.B) {
	n, err := strconv.Atoi(os.Getenv("EBB_BENCH_MEMBERS"))
	if err != nil {
		n = 100_000
	}
	all := roaring.New()
	all.AddRange(0, uint64(n))
	for name, f := range benched {
		if !f.Facts().Removes {
			continue // it is pulled only
		}
		b.Run(name, func(b *testing.B) {
			var took time.Duration
			to := &drain{}
			for b.Loop() {
				c := &crowd{n: n, now: storetest.Start}
				m := storetest.NewModel(func() taxonomy.Millis { return c.now })
				d, err := delivery.New(delivery.Options{
					Keyed: m.Keyed(), Blobs: m.Blobs(),
					Pseudonym: func(_ taxonomy.DestinationID, _ uint32, k taxonomy.VisitorKey) string {
						return hex.EncodeToString(k[:])
					},
					View:    func(context.Context) (audience.View, error) { return c, nil },
					Formats: benched, Transports: map[string]delivery.Transport{"drain": to},
					After: func(wait time.Duration) <-chan time.Time {
						c.now += taxonomy.Millis(wait.Milliseconds())
						past := make(chan time.Time)
						close(past)
						return past
					},
					Now: func() taxonomy.Millis { return c.now }, Rand: rand.NewChaCha8([32]byte{}),
				})
				if err != nil {
					b.Fatal(err)
				}
				dest := benchDestination(name)
				dest.Transport = "drain"
				src := delivery.Source{
					Generation: &audience.Generation{Number: 1, Clock: c.now, Shards: 1, Audiences: []audience.Entry{{ID: "cars", Positive: []taxonomy.Column{colCar}}, {ID: "sport", Positive: []taxonomy.Column{colCar}}}},
					View:       c,
					Members:    func(context.Context, audience.Entry) (index.Set, error) { return index.Set{all}, nil },
				}
				start := time.Now()
				done, err := d.Run(context.Background(), dest, src)
				took += time.Since(start)
				if err != nil || done.Rows != uint64(2*n) || done.Acknowledged != done.Chunks {
					b.Fatalf("%v, %+v", err, done)
				}
			}
			b.ReportMetric(float64(b.N*2*n)/took.Seconds()/1e6, "Mmembers/s")
			b.ReportMetric(float64(to.bytes)/float64(b.N*2*n), "bytes/member")
		})
	}
}

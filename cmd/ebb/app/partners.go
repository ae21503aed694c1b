package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/delimited"
	"github.com/ebb-dmp/ebb/segments/delivery/format/google"
	"github.com/ebb-dmp/ebb/segments/delivery/format/parquet"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tradedesk"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tsv"
	"github.com/ebb-dmp/ebb/segments/delivery/format/webhook"
	"github.com/ebb-dmp/ebb/segments/delivery/format/xandr"
	"github.com/ebb-dmp/ebb/segments/delivery/format/yahoo"
	"github.com/ebb-dmp/ebb/segments/delivery/transport"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/bss"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/dir"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/https"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/s3"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/sftp"
)

// Beside the data directory, as the keys are: what is in it is neither visitors'
// data nor in a backup of them.
const (
	secretsSuffix  = ".secrets"  // receivers' credentials, a file each
	outgoingSuffix = ".outgoing" // where the transport dir puts files

	// mostSecret is how large a credentials file may be.
	mostSecret = 64 << 10
)

// formats are the ways in which receivers are written to.
func formats() map[string]delivery.Format {
	return map[string]delivery.Format{
		"tsv": tsv.Format{}, "webhook": webhook.Format{},
		"tradedesk": tradedesk.Format{}, "tradedesk-advertiser": tradedesk.Format{Advertiser: true},
		"google": google.Format{}, "yahoo": yahoo.Format{}, "xandr-avro": xandr.Avro{}, "xandr-text": xandr.Text{},
		"parquet": parquet.Format{},
		"beeswax": delimited.Beeswax(), "adform": delimited.Adform(), "audience-manager": delimited.AudienceManager(), "template": delimited.Own(),
	}
}

// transports are the ways in which files reach receivers.
func (a *App) transports() map[string]delivery.Transport {
	guard := &transport.Guard{
		Resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			if addr, err := netip.ParseAddr(host); err == nil {
				return []netip.Addr{addr}, nil
			}
			if a.env.Resolve == nil {
				return nil, errors.New("this process has no name service")
			}
			return a.env.Resolve(ctx, host)
		},
		Connect: a.env.Dial,
		Private: a.cfg.PrivateReceivers,
	}
	return map[string]delivery.Transport{
		"pull":  pull.Transport{},
		"dir":   dir.Transport{FS: a.env.FS, Root: a.cfg.Data + outgoingSuffix},
		"https": https.New(https.Options{Guard: guard, Secret: a.secret, Now: a.env.millis}),
		"bss":   bss.New(transport.HTTP{Guard: guard, Secret: a.secret, Now: a.env.millis}),
		"sftp":  sftp.Transport{Dial: guard.Dial, Secret: a.secret},
		"s3":    s3.New(s3.Options{Guard: guard, Secret: a.secret}),
	}
}

// secret returns a receiver's credentials.
func (a *App) secret(name string) (string, error) {
	folder := a.cfg.Data + secretsSuffix
	f, err := a.env.FS.Open(a.env.FS.PathJoin(folder, name))
	if err != nil {
		return "", fmt.Errorf("%w; put the receiver's secret into the file %s in %s, readable by this process alone", err, name, folder)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, mostSecret+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	s := strings.TrimSpace(string(b))
	if s == "" || len(b) > mostSecret {
		return "", fmt.Errorf("read %s: want 1 to %d bytes", name, mostSecret)
	}
	return s, nil
}

// Files are what partners hold and may have, and what they were sent.
func (a *App) Files() *delivery.Deliverer { return a.deliverer }

package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// Server is an App that answers HTTP.
type Server struct {
	*App
	edge  *tagserver.Server
	addrs [3]string
	ready atomic.Bool
	alone bool // answers a command, whatever the node's roles
}

// drainFor is how long a stop waits for requests that are under way.
const drainFor = 10 * time.Second

// Serve opens the three listeners over an open App and starts its loops. Close
// stops all of it in the reverse order: the public listener first, so that
// nothing new comes, the store last.
func (a *App) Serve(ctx context.Context) (*Server, error) {
	s := &Server{App: a} // no named result: what is stopped after a failure needs it
	if err := a.Start(); err != nil {
		return nil, err
	}
	o := a.edgeOptions()
	if err := s.routes(&o); err != nil {
		return nil, err
	}
	var err error
	if s.edge, err = tagserver.New(o); err != nil {
		return nil, err
	}
	a.life.run("edge's counts", func(ctx context.Context) error {
		return a.every(ctx, time.Second, "append the edge's counts", s.edge.Flush)
	})
	a.life.onStop("edge's last counts", func(ctx context.Context) error {
		if err := s.edge.Flush(ctx); err != nil && !errors.Is(err, retention.ErrClosed) {
			return err
		}
		return nil
	})
	a.followCountries()
	certs, err := loadCerts(a.cfg.TLS)
	if err != nil {
		return nil, err
	}
	if certs != nil {
		a.life.run("certificates", func(ctx context.Context) error {
			return a.every(ctx, time.Minute, "read the certificate", func(context.Context) error { return certs.load() })
		})
	}
	for _, l := range a.listeners() {
		if err := s.listen(l, certs); err != nil {
			return nil, err
		}
	}
	s.ready.Store(true)
	a.life.onStop("readiness", func(context.Context) error { s.ready.Store(false); return nil })
	return s, nil
}

// Address returns where a listener listens: host and port.
func (s *Server) Address(l tagserver.Listener) string { return s.addrs[l] }

// Edge is what answers on the listeners.
func (s *Server) Edge() *tagserver.Server { return s.edge }

// Wait returns when the context ends or a part cannot go on, which is an error.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.life.fatal:
		return err
	case <-s.store.Failed():
		return errors.New("the store cannot go on, and what was acknowledged is safe; mend the disk and start again")
	}
}

func (s *Server) listen(l tagserver.Listener, certs *certificates) error {
	addr := map[tagserver.Listener]string{tagserver.Public: s.cfg.Listen.Public, tagserver.Partner: s.cfg.Listen.Partner, tagserver.Private: s.cfg.Listen.Private}[l]
	ln, err := s.env.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for %s: %w; set listen.%s to a free address", l, err, l)
	}
	s.addrs[l] = ln.Addr().String()
	if certs != nil && !(l == tagserver.Private && isLoopback(ln.Addr())) {
		ln = tls.NewListener(ln, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certs.get, NextProtos: []string{"h2", "http/1.1"}})
	}
	srv := s.edge.HTTP(l)
	done := make(chan error, 1)
	s.life.wg.Go(func() {
		err := srv.Serve(ln)
		if !errors.Is(err, http.ErrServerClosed) {
			select {
			case s.life.fatal <- fmt.Errorf("serve %s: %w", l, err):
			default:
			}
		}
		done <- err
	})
	s.life.onStop(l.String()+" listener", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, drainFor)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			// Who is still connected is cut off; what was answered is in the log.
			return errors.Join(srv.Close())
		}
		<-done
		return nil
	})
	s.log.Info("listening", "for", l.String(), "address", s.addrs[l], "tls", certs != nil)
	return nil
}

func isLoopback(a net.Addr) bool {
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().IsLoopback()
}

// edgeOptions hands the edge what it needs, one by one.
func (a *App) edgeOptions() tagserver.Options {
	o := tagserver.Options{
		Now: a.env.millis, Rand: a.env.Rand, Timeout: context.WithTimeout,
		Log: a.wal, Ack: a.ack(), EraseAck: a.eraseAck(), Keys: func() *keys.Ring { return a.keys.Load() },
		Shards: a.install.Shards, Groups: a.install.Groups,
		Sites: live{a}, Sources: live{a}, Destinations: live{a}, Erased: live{a}, Evaluator: live{a}, Audiences: pages{a}, Visitors: pages{a}, Bidders: pages{a}.Bidders,
		Strings:        a.readStrings,
		IgnoreDNT:      !a.cfg.Consent.DNT,
		TrustedProxies: a.cfg.Proxies,
		Partitioned:    a.cfg.Partitioned,
		Metrics:        a.registry, Logger: a.log,
	}
	if a.countries != nil {
		o.Country = a.countries.Country
	}
	o.Limits = limitsOf(&a.cfg)
	return o
}

// certificates is the TLS certificate in force. Its files are read again each
// minute, so that a renewed certificate needs no restart; what cannot be read
// leaves the old one in force and is logged.
type certificates struct {
	cfg  config.TLS
	pair atomic.Pointer[tls.Certificate]
}

func loadCerts(cfg config.TLS) (*certificates, error) {
	if cfg.Cert == "" {
		return nil, nil
	}
	c := &certificates{cfg: cfg}
	return c, c.load()
}

func (c *certificates) load() error {
	pair, err := tls.LoadX509KeyPair(c.cfg.Cert, c.cfg.Key)
	if err != nil {
		return fmt.Errorf("read the certificate: %w; check tls.cert and tls.key", err)
	}
	c.pair.Store(&pair)
	return nil
}

func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.pair.Load(), nil }

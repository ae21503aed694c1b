// Package transport has what the ways of sending share: a dialer that reaches
// no private address.
package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Guard connects to receivers, and to nothing within the house: definitions of
// destinations are data, and must not make Ebb speak to its neighbours.
type Guard struct {
	// Resolve returns the addresses of a host.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Connect connects to an address that Resolve gave: "192.0.2.1:443".
	Connect func(ctx context.Context, network, address string) (net.Conn, error)
	// Private are the non-public addresses that may be reached; none if empty.
	Private []netip.Prefix
}

// ConnectError is a failure before anything was sent.
type ConnectError struct{ Err error }

func (e *ConnectError) Error() string { return "connect: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

// Dial resolves a host, and connects to an address of it that may be reached;
// errors are a *ConnectError. The check is here, on what is connected to: a name
// that was public when the destination was defined may have moved inside since.
func (g *Guard) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &ConnectError{err}
	}
	addrs, err := g.Resolve(ctx, host)
	if err != nil {
		return nil, &ConnectError{fmt.Errorf("resolve the receiver's name: %w", err)}
	}
	err = errors.New("the receiver's name has no address")
	for _, a := range addrs {
		if !g.Allows(a) {
			err = errors.New("the receiver's name leads to an address that is not public, which the configuration does not allow")
			continue
		}
		var c net.Conn
		if c, err = g.Connect(ctx, network, net.JoinHostPort(a.Unmap().String(), port)); err == nil {
			return c, nil
		}
	}
	return nil, &ConnectError{err}
}

// Allows reports whether an address may be reached.
func (g *Guard) Allows(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if Public(a) {
		return true
	}
	for _, p := range g.Private {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// notPublic are ranges that netip does not name, by RFC 6890 and its registry;
// those that carry an IPv4 address within an IPv6 one lead anywhere.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

// Public reports whether an address is one of the public internet.
func Public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

package tagserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Role is what somebody does here. Each role may do all that the one before it
// may.
type Role string

// The roles.
const (
	RoleViewer   Role = "viewer"   // looks
	RoleAnalyst  Role = "analyst"  // defines categories, rules and audiences
	RoleOperator Role = "operator" // defines the rest, takes in, delivers, erases
	RoleAdmin    Role = "admin"    // gives keys
)

// Roles lists the roles, the least first.
var Roles = []Role{RoleViewer, RoleAnalyst, RoleOperator, RoleAdmin}

// Scope is one thing that may be done: an area and a verb.
type Scope string

// scopes is every scope, with the least role that has it.
var scopes = []struct {
	Scope Scope
	Role  Role
}{
	{"sites:read", RoleViewer}, {"sources:read", RoleViewer}, {"taxonomies:read", RoleViewer}, {"audiences:read", RoleViewer},
	{"destinations:read", RoleViewer}, {"deliveries:read", RoleViewer}, {"imports:read", RoleViewer}, {"operation:read", RoleViewer}, {"console:read", RoleViewer},
	{"taxonomies:write", RoleAnalyst}, {"audiences:write", RoleAnalyst},
	{"sites:write", RoleOperator}, {"sources:write", RoleOperator}, {"destinations:write", RoleOperator}, {"deliveries:write", RoleOperator},
	{"imports:write", RoleOperator}, {"definitions:write", RoleOperator}, {"erasures:read", RoleOperator}, {"erasures:write", RoleOperator},
	{"operation:write", RoleOperator}, {"audit:read", RoleOperator},
	{"keys:read", RoleAdmin}, {"keys:write", RoleAdmin}, {"backups:write", RoleAdmin}, {"profiles:read", RoleAdmin},
}

// Scopes returns the scopes of a role, in order of the table; nil if there is no
// such role.
func (r Role) Scopes() (all []Scope) {
	at := slices.Index(Roles, r)
	for _, s := range scopes {
		if slices.Index(Roles, s.Role) <= at {
			all = append(all, s.Scope)
		}
	}
	return all
}

func isScope(s Scope) bool {
	for _, k := range scopes {
		if k.Scope == s {
			return true
		}
	}
	return false
}

// Reach is how far into the installation a route goes, which decides what a key
// that is restricted to some sources and destinations may do there.
type Reach uint8

// The reaches.
const (
	// OfAll: it is about the whole installation. A restricted key may not.
	OfAll Reach = iota + 1
	// OfCommon: it shows what is the same for everybody and says nothing of any
	// source or destination.
	OfCommon
	// OfOwn: it is about one object, or a list of them. The handler sees to it
	// that a restricted key meets its own only; what is another's is not there.
	OfOwn
)

// Right is what a route behind AuthAdmin asks of its caller.
type Right struct {
	Scope Scope
	Reach Reach
}

// May is the right to something, for a row of the table.
func May(s Scope, r Reach) Right { return Right{s, r} }

// Principal is who calls on the private listener. It is not changed once it is
// made.
type Principal struct {
	// ID is what the audit log calls it: the ID of its key.
	ID     string
	Scopes []Scope
	// Sources and Destinations are what it is restricted to. Both nil: nothing.
	// If one is not nil, the other means what it lists, even if that is nothing.
	Sources      []taxonomy.SourceID
	Destinations []taxonomy.DestinationID
}

// Everything is a principal that may do everything.
func Everything(id string) *Principal { return &Principal{ID: id, Scopes: RoleAdmin.Scopes()} }

// Whole reports whether it is restricted to nothing.
func (p *Principal) Whole() bool { return p.Sources == nil && p.Destinations == nil }

// Has reports whether it has a scope.
func (p *Principal) Has(s Scope) bool { return slices.Contains(p.Scopes, s) }

// May reports whether it has a right, as far as that does not depend on the
// object.
func (p *Principal) May(r Right) bool { return p.Has(r.Scope) && (p.Whole() || r.Reach != OfAll) }

// Source reports whether it may meet what is of a source.
func (p *Principal) Source(id taxonomy.SourceID) bool {
	return p.Whole() || slices.Contains(p.Sources, id)
}

// Destination reports whether it may meet a destination.
func (p *Principal) Destination(id taxonomy.DestinationID) bool {
	return p.Whole() || slices.Contains(p.Destinations, id)
}

type principalKey struct{}

// WithPrincipal returns a context that says who calls.
func WithPrincipal(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalOf returns who calls, nil if nobody is known to.
func PrincipalOf(ctx context.Context) *Principal {
	p, _ := ctx.Value(principalKey{}).(*Principal)
	return p
}

// Enter lets a principal in: it hands the request on with its caller. Guards of
// AuthAdmin end with it.
func Enter(c echo.Context, p *Principal, next echo.HandlerFunc) error {
	c.SetRequest(c.Request().WithContext(WithPrincipal(c.Request().Context(), p)))
	return next(c)
}

// entitled lets through who has the right.
func entitled(right Right, next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		p := PrincipalOf(c.Request().Context())
		switch {
		case p == nil:
			return unauthorized(c)
		case !p.Has(right.Scope):
			return NewProblem(http.StatusForbidden, "forbidden", fmt.Sprintf("the key %q has no right to %s; ask for a key that has", p.ID, right.Scope))
		case !p.May(right):
			return NewProblem(http.StatusForbidden, "forbidden", fmt.Sprintf("the key %q is restricted to some sources or destinations, and this is about the whole installation", p.ID))
		}
		return next(c)
	}
}

func unauthorized(c echo.Context) error {
	c.Response().Header().Set("WWW-Authenticate", `Bearer realm="ebb"`)
	return NewProblem(http.StatusUnauthorized, "unauthorized", "send a key as Authorization: Bearer ebba_…")
}

// checkRight refuses a row whose right is not declared, or is declared where
// nobody asks for it.
func (r *Route) checkRight() error {
	switch {
	case r.Auth != AuthAdmin && r.Right != Right{}:
		return fmt.Errorf("declares a right, and auth %q asks for none", r.Auth)
	case r.Auth == AuthAdmin && (!isScope(r.Right.Scope) || r.Right.Reach < OfAll || r.Right.Reach > OfOwn):
		return fmt.Errorf("declares no right: name a scope and a reach")
	}
	return nil
}

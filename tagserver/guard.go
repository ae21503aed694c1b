package tagserver

import (
	"strings"

	"github.com/labstack/echo/v4"
)

// Guard surrounds a handler and checks who calls. The name lets the wiring hand
// guards from sub-folders to New without knowing the router.
type Guard = echo.MiddlewareFunc

// KeyGuard lets through who shows a key, as a bearer, that who knows. No key, a
// wrong one and one of another kind are one answer.
func KeyGuard(who func(key string) *Principal) Guard {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if key, is := strings.CutPrefix(c.Request().Header.Get("Authorization"), "Bearer "); is {
				if p := who(key); p != nil {
					return Enter(c, p, next)
				}
			}
			return unauthorized(c)
		}
	}
}

// LetIn lets everybody in as p. It is for a handler that only this process can
// reach.
func LetIn(p *Principal) Guard {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error { return Enter(c, p, next) }
	}
}

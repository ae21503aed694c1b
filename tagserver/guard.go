package tagserver

import (
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

// Guard surrounds a handler and checks who calls. The name lets the wiring hand
// guards from sub-folders to New without knowing the router.
type Guard = echo.MiddlewareFunc

// KeyGuard lets through who shows a key that ok accepts, as a bearer. No key, a
// wrong one and one of another kind are one answer.
func KeyGuard(ok func(key string) bool) Guard {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if key, is := strings.CutPrefix(c.Request().Header.Get("Authorization"), "Bearer "); is && ok(key) {
				return next(c)
			}
			c.Response().Header().Set("WWW-Authenticate", `Bearer realm="ebb"`)
			return NewProblem(http.StatusUnauthorized, "unauthorized", "send the admin key as Authorization: Bearer ebba_…")
		}
	}
}

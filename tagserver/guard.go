package tagserver

import "github.com/labstack/echo/v4"

// Guard surrounds a handler and checks who calls. The name lets the wiring hand
// guards from sub-folders to New without knowing the router.
type Guard = echo.MiddlewareFunc

// LetIn lets everybody in as p. It is for a handler that only this process can
// reach.
func LetIn(p *Principal) Guard {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error { return Enter(c, p, next) }
	}
}

package tagserver

import "github.com/labstack/echo/v4"

// Guard surrounds a handler and checks who calls. The name lets the wiring hand
// guards from sub-folders to New without knowing the router.
type Guard = echo.MiddlewareFunc

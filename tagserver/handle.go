package tagserver

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// Handle makes a row's handler of a function over the standard library, for the
// wiring, which does not know the router. A *Problem that fn returns is the
// answer; any other error is logged, and the caller hears "internal error". Once
// fn has begun to write, an error cuts the connection off, so that half an
// answer is not taken for a whole one. Deadlines are taken off: what is made so
// is for admins, and takes as long as it takes.
func Handle(fn func(http.ResponseWriter, *http.Request) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		rc := http.NewResponseController(c.Response())
		_ = rc.SetReadDeadline(time.Time{}) // a recorder has none
		_ = rc.SetWriteDeadline(time.Time{})
		err := fn(c.Response(), c.Request())
		if err != nil && c.Response().Committed {
			panic(http.ErrAbortHandler)
		}
		return err
	}
}

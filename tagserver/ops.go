package tagserver

import (
	"context"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Ops is what the routes for operators need.
type Ops struct {
	Metrics prometheus.Gatherer
	// Ready returns why the server should get no traffic, nothing if it should,
	// and warnings that call for an operator without taking traffic away. Each
	// ends with the next step.
	Ready func(context.Context) (faults, warnings []string)
}

// OpsRoutes are the rows of the table that operators and their machines ask:
// health and metrics, open on the private listener, and profiles behind the
// admin key.
func OpsRoutes(o Ops) []Route {
	metrics := promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{})
	row := func(path string, auth Auth, h echo.HandlerFunc) Route {
		r := Route{Method: http.MethodGet, Path: path, Listener: Private, Auth: auth, Handler: h}
		if auth == AuthAdmin {
			r.Right = May("profiles:read", OfAll)
		}
		return r
	}
	return []Route{
		// Alive means that this answer comes: nothing is asked, so that a slow
		// disk does not make an orchestrator kill the process that waits for it.
		row("/healthz", AuthOpen, func(c echo.Context) error { return c.String(http.StatusOK, "alive\n") }),
		row("/readyz", AuthOpen, o.ready),
		row("/metrics", AuthOpen, echo.WrapHandler(metrics)),
		row("/debug/pprof/", AuthAdmin, echo.WrapHandler(http.HandlerFunc(pprof.Index))),
		row("/debug/pprof/profile", AuthAdmin, echo.WrapHandler(http.HandlerFunc(pprof.Profile))),
		row("/debug/pprof/trace", AuthAdmin, echo.WrapHandler(http.HandlerFunc(pprof.Trace))),
		row("/debug/pprof/:name", AuthAdmin, func(c echo.Context) error {
			pprof.Handler(c.Param("name")).ServeHTTP(c.Response(), c.Request())
			return nil
		}),
	}
}

func (o Ops) ready(c echo.Context) error {
	faults, warnings := o.Ready(c.Request().Context())
	var b strings.Builder
	status := http.StatusOK
	if len(faults) > 0 {
		status = http.StatusServiceUnavailable
		b.WriteString("not ready\n")
	} else {
		b.WriteString("ready\n")
	}
	for _, f := range faults {
		b.WriteString("fault: " + f + "\n")
	}
	for _, w := range warnings {
		b.WriteString("warning: " + w + "\n")
	}
	return c.String(status, b.String())
}

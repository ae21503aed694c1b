package console

import "net/http"

// more are the routes of the pages beside the builder.
func (w *world) more(m *http.ServeMux, answer func(http.ResponseWriter, int, any), list func(http.ResponseWriter, ...any), missing func(http.ResponseWriter), invalid func(http.ResponseWriter, error)) {
}

package console

import (
	"context"
	"flag"
)

type ctx = context.Context

var update = flag.Bool("update", false, "write golden files anew")

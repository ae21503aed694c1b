package tag

import (
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

func awaitPromise(p *runtime.EvaluateParams) *runtime.EvaluateParams {
	return p.WithAwaitPromise(true).WithReturnByValue(true)
}

func offline(yes bool) chromedp.Action {
	return network.EmulateNetworkConditions(yes, 0, -1, -1)
}

// slow makes the processor as many times slower.
func slow(times float64) chromedp.Action { return emulation.SetCPUThrottlingRate(times) }

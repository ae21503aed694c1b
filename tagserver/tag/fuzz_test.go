package tag

import (
	"encoding/json"
	"regexp"
	"testing"
	"unicode/utf16"

	"github.com/dop251/goja"
)

// What the tag reads of a page comes from others: platforms' answers, messages,
// the data layer, attributes, what lies in storage. Whatever it is, nothing is
// thrown into the page, and nothing is sent that an independent reading of the
// same bytes does not call a yes.
func FuzzWhatTheTagReads(f *testing.F) {
	for _, seed := range []string{
		`{"eventStatus":"tcloaded","gdprApplies":true,"tcString":"CP","purpose":{"consents":{"1":true,"3":true,"4":true}},"vendor":{"consents":{}}}`,
		`{"eventStatus":"useractioncomplete","gdprApplies":false}`, `{"eventStatus":7,"purpose":null}`, `{"eventStatus":"tcloaded","purpose":{"consents":[0,1,0,1,1]}}`,
		`{"pingData":{"signalStatus":"ready","applicableSections":[7],"supportedAPIs":["7:usnat"],"gppString":"DB"}}`, `{"pingData":{"signalStatus":"ready","applicableSections":[]}}`,
		`{"pingData":{"signalStatus":"ready","applicableSections":[7,"8",{}],"supportedAPIs":null}}`, `{"uspString":"1YNN"}`, `{"uspString":"1YYN"}`, `{"uspString":[1,2,3]}`, `{"uspString":"x"}`, `{"uspString":"1Y?"}`, `null`, `7`, `"x"`, `[]`,
		`{"__tcfapiReturn":{"callId":"ebb1","success":true,"returnValue":{"eventStatus":"tcloaded"}}}`,
		`{"event":"add_to_cart","ecommerce":{"items":[{"item_id":"a"}]}}`, `{"0":"event","1":"purchase","2":{"items":{},"transaction_id":{}}}`, `{"ecommerce":{"purchase":{"products":[null]}}}`, `{"ecommerce":{"detail":[]}}`,
		`{"site":"shop","consent":"none","wait":"x","spa":"hash","tcfPurposes":"","tcfVendor":"__proto__","query":"keep"}`, `{"site":"shop","default":"granted","ns":"a b"}`,
		`{"y":1,"q":[{"id":"a","t":1764063000000}],"o":0}`, `{"q":7,"a":{},"o":3}`, `{"y":{},"q":[null]}`,
	} {
		for kind := range byte(7) {
			f.Add(kind, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, text []byte) {
		var v any
		if len(text) > 4096 || json.Unmarshal(text, &v) != nil {
			return
		}
		p := newPage(t)
		if err := p.Set("given", p.parse(text)); err != nil {
			t.Fatal(err)
		}
		yes := false
		switch kind % 7 {
		case 0:
			p.run(`window.__tcfapi=function(c,v,f){f(given,true)}`)
			yes = readsTCF(v)
		case 1:
			p.run(`window.__gpp=function(c,f,s){ if(c=='getSection') return f(given,true); f(given,true)}`)
			yes = readsGPP(v)
		case 2:
			p.run(`window.__uspapi=function(c,v,f){f(given,true)}`)
			yes = readsUSP(v)
		case 3:
			// A platform in a parent frame, which answers with anything.
			p.run(`window.parent={frames:{__tcfapiLocator:1},postMessage:function(m){fire('message',{source:window.parent,data:given})}};window.parent.parent=window.parent;window.top=window.parent`)
			// The call's number is random, so no answer is to it.
		case 4:
			p.run(`window.dataLayer=[given]; script.dataset.consent='manual'`)
		case 5:
			p.run(`if (given && typeof given=='object') Object.keys(given).forEach(function(k){script.dataset[k]=typeof given[k]=='string'?given[k]:String(JSON.stringify(given[k]))})`)
			yes = true // what attributes ask for is the owner's wish; here nothing may be thrown
		case 6:
			p.run(`store['ebb:shop']=JSON.stringify(given); script.dataset.consent='manual'`)
		}
		p.load()
		if kind%7 == 4 {
			p.loadFile("shop", "{site:'shop',layer:'dataLayer'}")
			p.run(`window.dataLayer.push(given)`)
		}
		p.run(`for (var i=0;i<40;i++) step(100); fire('pagehide')`)
		sent := p.run(`sent.concat(beacons).filter(function(s){return s.body && s.body.events && s.body.events.length}).length`).ToInteger()
		if sent > 0 && !yes {
			t.Errorf("kind %d: %s: %d batches were sent, and nobody said yes", kind%7, text, sent)
		}
		p.run(`if (window.ebb) { ebb('track','x'); ebb('consent',false); step(1000) }`)
	})
}

func (p *page) parse(text []byte) goja.Value {
	p.t.Helper()
	parse, ok := goja.AssertFunction(p.Get("JSON").ToObject(p.Runtime).Get("parse"))
	if !ok {
		p.t.Fatal("no JSON.parse")
	}
	v, err := parse(goja.Undefined(), p.ToValue(string(text)))
	if err != nil {
		p.t.Skip("Go reads it as JSON, and JavaScript does not")
	}
	return v
}

// truthy is what JavaScript takes for true, of a JSON value.
func truthy(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case float64:
		return v != 0
	case string:
		return v != ""
	}
	return true
}

func readsTCF(v any) bool {
	o, _ := v.(map[string]any)
	if o["gdprApplies"] == false {
		return true
	}
	purpose, _ := o["purpose"].(map[string]any)
	at := func(i int, key string) any {
		switch c := purpose["consents"].(type) {
		case map[string]any:
			return c[key]
		case []any:
			if i < len(c) {
				return c[i]
			}
		case string:
			if i < len(c) {
				return string(c[i])
			}
		}
		return nil
	}
	return truthy(at(1, "1")) && truthy(at(3, "3")) && truthy(at(4, "4"))
}

func readsGPP(v any) bool {
	o, _ := v.(map[string]any)
	ping, _ := o["pingData"].(map[string]any)
	return ping["signalStatus"] == "ready" && !regexp.MustCompile(`OptOut":1[,}\]]`).MatchString(mustJSON(v))
}

func readsUSP(v any) bool {
	o, _ := v.(map[string]any)
	switch s := o["uspString"].(type) {
	case string:
		u := utf16.Encode([]rune(s))
		return len(u) > 2 && (u[2] == 'N' || u[2] == '-')
	case []any:
		return len(s) > 2 // JavaScript takes it for text
	}
	return false
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

package delivery_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func TestEachFaultOfADestinationIsNamed(t *testing.T) {
	for field, spoil := range map[string]func(*delivery.Destination){
		"id":           func(d *delivery.Destination) { d.ID = "A DSP" },
		"ids":          func(d *delivery.Destination) { d.IDs = "cookie" },
		"audiences[1]": func(d *delivery.Destination) { d.Audiences = []taxonomy.AudienceID{"cars", "cars"} },
		"sync_url":     func(d *delivery.Destination) { d.SyncURL = "https://dsp.example/sync" },
		"format":       func(d *delivery.Destination) { d.Format = "T S V" },
		"transport":    func(d *delivery.Destination) { d.Transport = "\n" },
		"every":        func(d *delivery.Destination) { d.Every = delivery.Period(time.Second) },
		"full_every":   func(d *delivery.Destination) { d.FullEvery = delivery.Period(25 * time.Hour) },
		"key_hash":     func(d *delivery.Destination) { d.KeyHash = "secret" },
	} {
		d := destination()
		if err := d.Validate(); err != nil {
			t.Fatal(err)
		}
		spoil(&d)
		var fe *taxonomy.FieldError
		if err := d.Validate(); !errors.As(err, &fe) || fe.Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
	if err := (&delivery.Destination{ID: "dsp"}).Validate(); err != nil {
		t.Errorf("defaults do not suffice: %v", err)
	}
}

func TestASyncURLCannotSendTheIDAstray(t *testing.T) {
	for _, bad := range []string{
		"http://dsp.example/?id=${EBB_ID}", "https://${EBB_ID}.example/", "https://user:pw@dsp.example/${EBB_ID}",
		"https:///x?id=${EBB_ID}", "https://dsp.example/#${EBB_ID}", "javascript:${EBB_ID}", "https://dsp.example/%zz${EBB_ID}",
	} {
		d := destination()
		if d.SyncURL = bad; d.Validate() == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	d := destination()
	d.SyncURL = "https://dsp.example/sync?from=ebb&id=${EBB_ID}"
	if err := d.Validate(); err != nil || d.SyncTo("a&b") != "https://dsp.example/sync?from=ebb&id=a%26b" {
		t.Errorf("%v, %s", err, d.SyncTo("a&b"))
	}
}

func TestADestinationRoundTripsAsJSON(t *testing.T) {
	b, err := json.Marshal(destination())
	if err != nil || !strings.Contains(string(b), `"full_every":"24h0m0s"`) {
		t.Fatalf("%s, %v", b, err)
	}
	var d delivery.Destination
	if err := json.Unmarshal([]byte(`{"every":"soon"}`), &d); err == nil {
		t.Error(`"soon" was taken for a period`)
	}
	if err := json.Unmarshal(b, &d); err != nil || d.FullEvery != delivery.DefaultFullEvery || d.Floor != 1 {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestAPartnerKeyIsKnownByItsHashOnly(t *testing.T) {
	key, hash, err := delivery.NewKey(rand.NewChaCha8([32]byte{1}))
	if err != nil || !strings.HasPrefix(key, delivery.KeyPrefix) || len(key) != 5+43 || strings.Contains(hash, key) {
		t.Fatalf("%d bytes, %v", len(key), err)
	}
	if !delivery.CheckKey(hash, key) || delivery.CheckKey(hash, key[:47]) || delivery.CheckKey("", "") || delivery.CheckKey(delivery.HashKey(""), key) {
		t.Error("a key is taken for another")
	}
	if _, _, err := delivery.NewKey(strings.NewReader("short")); err == nil {
		t.Error("a key was made without randomness")
	}
}

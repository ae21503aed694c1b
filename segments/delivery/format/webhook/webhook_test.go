package webhook_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/webhook"
	"github.com/ebb-dmp/ebb/taxonomy"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"pgregory.net/rapid"
)

var created = taxonomy.MillisOf(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// The vector is that of the standard's own library.
func TestTheStandardsVectorIsSigned(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, webhook.SecretPrefix))
	if err != nil {
		t.Fatal(err)
	}
	if got := webhook.Sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`)); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Fatal(got)
	}
}

// The standard's own library accepts every message, and none that was changed.
func TestTheStandardsLibraryVerifiesEveryMessage(t *testing.T) {
	lib, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		now := taxonomy.Millis(rapid.Int64Range(0, 4e12).Draw(t, "now"))
		m, err := webhook.Format{}.Headers(&delivery.Chunk{Key: "00112233445566778899aabbccddeeff"}, body, secret, now)
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{}
		for k, v := range m {
			h.Set(k, v)
		}
		if err := lib.VerifyIgnoringTimestamp(body, h); err != nil {
			t.Fatal(err)
		}
		if err := lib.VerifyIgnoringTimestamp(append(body, 'x'), h); err == nil {
			t.Fatal("a changed body was accepted: the test means nothing")
		}
	})
	for _, bad := range []string{"", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!", "whsec_AAAA"} {
		if _, err := (webhook.Format{}).Headers(&delivery.Chunk{}, nil, bad, created); err == nil || bad != "" && strings.Contains(err.Error(), bad[6:]) {
			t.Errorf("secret %q: %v", bad, err)
		}
	}
}

func TestTheExemplaryBodyIsWritten(t *testing.T) {
	want, err := os.ReadFile("testdata/exemplary/entered-and-exited.json")
	if err != nil {
		t.Fatal(err)
	}
	e := webhook.Format{}.New(delivery.FileInfo{Destination: "crm", Created: created, Delay: 15})
	out, err := e.Append(nil, delivery.Run{Audience: "cars", Minutes: 720}, []string{"a<&>b"})
	if err == nil {
		out, err = e.Append(out, delivery.Run{Audience: "cars", Remove: true}, []string{"c"})
	}
	if err == nil {
		out, err = e.Close(out)
	}
	if err != nil || string(out) != strings.TrimSuffix(string(want), "\n") {
		t.Fatalf("%v\n%s", err, out)
	}
	var batch struct {
		Batch []struct {
			Type, Event, MessageID, AnonymousID, Timestamp string
			Properties                                     map[string]string
		}
	}
	if err := json.Unmarshal(out, &batch); err != nil || len(batch.Batch) != 2 {
		t.Fatal(err, batch)
	}
	if b := batch.Batch[0]; b.Type != "track" || b.Event != "Audience Entered" || b.AnonymousID != "a<&>b" || b.Properties["expires_at"] != "2026-11-26T00:00:00Z" {
		t.Fatalf("%+v", b)
	}
	if b := batch.Batch[1]; b.Event != "Audience Exited" || b.MessageID == batch.Batch[0].MessageID || b.Properties["expires_at"] != "" {
		t.Fatalf("%+v", b)
	}
}

func TestAnEmptyBodyIsJSON(t *testing.T) {
	out, err := webhook.Format{}.New(delivery.FileInfo{Created: created}).Close(nil)
	if err != nil || !json.Valid(out) {
		t.Fatalf("%s, %v", out, err)
	}
	if webhook.Format.Check(webhook.Format{}, &delivery.Destination{}) == nil {
		t.Error("a webhook without a secret was taken")
	}
}

// Package webhook says who entered and left an audience to anyone who takes
// webhooks: track calls as Segment and its kin have them, signed as Standard
// Webhooks says.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format"
	"github.com/ebb-dmp/ebb/taxonomy"
)

//go:embed facts.yaml
var factsYAML []byte

var known = format.MustParse(factsYAML)

// The events.
const (
	Entered = "Audience Entered"
	Exited  = "Audience Exited"
)

// SecretPrefix begins every secret, and base64 follows.
const SecretPrefix = "whsec_"

// Format is the format. The zero value is ready.
type Format struct{}

var (
	_ delivery.Format  = Format{}
	_ delivery.Headers = Format{}
	_ delivery.Checker = Format{}
)

// Facts are those of facts.yaml.
func (Format) Facts() delivery.FormatFacts { return known.Format() }

// Check wants a secret: a webhook that is not signed can be sent by anyone.
func (Format) Check(d *delivery.Destination) error {
	if d.CredentialsFile == "" {
		return taxonomy.Invalid("credentials_file", "is empty: want the file with the secret, %s and base64", SecretPrefix)
	}
	return nil
}

// event is a track call.
type event struct {
	Type        string     `json:"type"`
	Event       string     `json:"event"`
	MessageID   string     `json:"messageId"`
	AnonymousID string     `json:"anonymousId"`
	Timestamp   string     `json:"timestamp"`
	Properties  properties `json:"properties"`
}

type properties struct {
	AudienceKey string `json:"audience_key"`
	Expires     string `json:"expires_at,omitempty"`
}

// New begins a body.
func (Format) New(f delivery.FileInfo) delivery.Encoder { return &encoder{info: f} }

type encoder struct {
	info  delivery.FileInfo
	begun bool
	some  bool
}

// Append writes an event for each ID.
func (e *encoder) Append(dst []byte, run delivery.Run, ids []string) ([]byte, error) {
	dst = e.begin(dst)
	v := event{Type: "track", Event: Entered, Timestamp: stamp(e.info.Created), Properties: properties{AudienceKey: string(run.Audience)}}
	if run.Remove {
		v.Event = Exited
	} else {
		// A time rather than minutes: whenever the event is read, it means the same.
		v.Properties.Expires = stamp(e.info.Created + taxonomy.Millis(run.Minutes)*taxonomy.Minute)
	}
	for _, id := range ids {
		if id == "" {
			return dst, fmt.Errorf("webhook: an ID of audience %s is empty", run.Audience)
		}
		v.AnonymousID = id
		// The same for the same statement, so that a receiver can tell a repeat.
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%s\n%s\n%s", e.info.Destination, e.info.Created, v.Event, run.Audience, id))
		v.MessageID = "ebb-" + base64.RawURLEncoding.EncodeToString(sum[:16])
		b, err := json.Marshal(&v)
		if err != nil {
			return dst, fmt.Errorf("webhook: write an event: %w", err)
		}
		if e.some {
			dst = append(dst, ',')
		}
		e.some = true
		dst = append(dst, b...)
	}
	return dst, nil
}

func (e *encoder) begin(dst []byte) []byte {
	if e.begun {
		return dst
	}
	e.begun = true
	return fmt.Appendf(dst, `{"type":"audience.changed","timestamp":%q,"batch":[`, stamp(e.info.Created))
}

// Close ends the body.
func (e *encoder) Close(dst []byte) ([]byte, error) { return append(e.begin(dst), `]}`...), nil }

func stamp(t taxonomy.Millis) string { return t.Time().UTC().Format(time.RFC3339) }

// Headers are the three of Standard Webhooks.
func (Format) Headers(c *delivery.Chunk, body []byte, secret string, now taxonomy.Millis) (map[string]string, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, SecretPrefix))
	if err != nil || !strings.HasPrefix(secret, SecretPrefix) || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("webhook: the credentials file holds no secret of the form " + SecretPrefix + " and 24 to 64 bytes in base64")
	}
	id, at := "msg_"+c.Key, strconv.FormatInt(now.Time().Unix(), 10)
	return map[string]string{"webhook-id": id, "webhook-timestamp": at, "webhook-signature": Sign(key, id, at, body)}, nil
}

// Sign returns the signature of a message.
func Sign(key []byte, id, timestamp string, body []byte) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(id + "." + timestamp + "."))
	m.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
}

package tagserver

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// Receipt is what a visitor holds in hand after a choice: a signed statement that
// it was taken. It is a JSON Web Token signed with Ed25519 (RFC 7519, RFC 8037),
// so any library of the kind checks it, against the key at
// /.well-known/ebb-receipts.json. It holds no ID and nothing from which one could
// be had: Of is the hash under which the erasure is kept, by which an operator
// finds what became of it.
type Receipt struct {
	// What was taken: "optout", "optin", "erasure" or "choice".
	What string `json:"what"`
	// At is when, in seconds since 1970.
	At int64 `json:"iat"`
	// Of are the erasures' IDs: 32 hex digits each. Empty: the request carried no
	// ID, so nothing was known to erase.
	Of []string `json:"of,omitempty"`
	// Off are the categories that are switched off from then on ("choice").
	Off []string `json:"off,omitempty"`
	// Durable is how far it had come when the receipt was signed: "local" or
	// "quorum".
	Durable string `json:"durable"`
}

var b64 = base64.RawURLEncoding

// receiptHead is the first part of every token of a key.
func receiptHead(pub ed25519.PublicKey) string {
	return b64.EncodeToString([]byte(`{"alg":"EdDSA","kid":"` + receiptKeyID(pub) + `","typ":"JWT"}`))
}

// receiptKeyID names a public key: its first bytes.
func receiptKeyID(pub ed25519.PublicKey) string { return hex.EncodeToString(pub[:8]) }

func signReceipt(ring *keys.Ring, r *Receipt) (string, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encode the receipt: %w", err)
	}
	text := receiptHead(ring.ReceiptKey()) + "." + b64.EncodeToString(body)
	return text + "." + b64.EncodeToString(ring.SignReceipt([]byte(text))), nil
}

// maxReceipt bounds a token: the longest list of categories, twice encoded.
const maxReceipt = 16 << 10

// ErrReceipt is what VerifyReceipt returns of a token that this key did not sign,
// or that was changed since.
var ErrReceipt = errors.New("not a receipt of this installation, or changed since it was signed")

// VerifyReceipt checks a receipt's signature and returns what it says. Whatever
// is wrong with it is ErrReceipt.
func VerifyReceipt(pub ed25519.PublicKey, token string) (r Receipt, err error) {
	token = strings.TrimSpace(token)
	at := strings.LastIndexByte(token, '.')
	if at < 0 || len(token) > maxReceipt || len(pub) != ed25519.PublicKeySize {
		return r, ErrReceipt
	}
	head, body, ok := strings.Cut(token[:at], ".")
	// The head is compared whole, so nobody can ask for another algorithm.
	if !ok || head != receiptHead(pub) {
		return r, ErrReceipt
	}
	sig, err := b64.DecodeString(token[at+1:])
	if err != nil || !ed25519.Verify(pub, []byte(token[:at]), sig) {
		return r, ErrReceipt
	}
	raw, err := b64.DecodeString(body)
	if err != nil || json.Unmarshal(raw, &r) != nil {
		return Receipt{}, ErrReceipt
	}
	return r, nil
}

// ReceiptKeys is the set of keys at /.well-known/ebb-receipts.json (RFC 7517).
type ReceiptKeys struct {
	Keys []ReceiptKey `json:"keys"`
}

// ReceiptKey is one of them.
type ReceiptKey struct {
	Type  string `json:"kty"` // OKP
	Curve string `json:"crv"` // Ed25519
	Alg   string `json:"alg"` // EdDSA
	Use   string `json:"use"` // sig
	ID    string `json:"kid"`
	X     string `json:"x"`
}

// Public returns the key, or an error that says what is wrong with the set.
func (k *ReceiptKeys) Public() (ed25519.PublicKey, error) {
	for _, x := range k.Keys {
		if x.Type != "OKP" || x.Curve != "Ed25519" {
			continue
		}
		pub, err := b64.DecodeString(x.X)
		if err != nil || len(pub) != ed25519.PublicKeySize {
			return nil, errors.New("the receipts' key is damaged")
		}
		return pub, nil
	}
	return nil, errors.New("the set has no Ed25519 key")
}

// handleReceiptKey answers GET /.well-known/ebb-receipts.json.
func (s *Server) handleReceiptKey(c echo.Context) error {
	pub := s.o.Keys().ReceiptKey()
	h := c.Response().Header()
	h.Set("Cache-Control", "public, max-age=86400")
	h.Set("Access-Control-Allow-Origin", "*")
	return writeJSON(c, http.StatusOK, &ReceiptKeys{[]ReceiptKey{{"OKP", "Ed25519", "EdDSA", "sig", receiptKeyID(pub), b64.EncodeToString(pub)}}})
}

// receipt signs what a visit left. An error is logged and costs the visitor the
// receipt, not the choice: that is in the log already.
func (s *Server) receipt(v *visit, what string, off []taxonomy.Trait, durable string) string {
	r := Receipt{What: what, At: int64(v.now / taxonomy.Second), Durable: durable}
	for i := range v.records {
		if v.records[i].Kind == taxonomy.RecordErasure {
			of := v.ring.Erasure(v.records[i].Visitor)
			r.Of = append(r.Of, hex.EncodeToString(of[:]))
		}
	}
	for _, t := range off {
		r.Off = append(r.Off, strings.TrimPrefix(string(t), "c:"))
	}
	token, err := signReceipt(v.ring, &r)
	if err != nil {
		s.log.Error("receipt not signed", "error", err)
	}
	return token
}

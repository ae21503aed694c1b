package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Bytes is a number of bytes. As text it is a whole number with a unit of 1024
// or none: 33554432, 32MiB.
type Bytes int64

var units = []struct {
	name string
	size Bytes
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

func (b Bytes) String() string {
	for _, u := range units {
		if b != 0 && b%u.size == 0 && u.size > 1 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// ParseBytes reads what String prints. A negative size, a broken one and one
// that does not fit in 63 bits are errors.
func ParseBytes(s string) (Bytes, error) {
	number, size := s, Bytes(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			number, size = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || n > uint64(math.MaxInt64/size) {
		return 0, fmt.Errorf("%q is no size; want a whole number of bytes such as 1048576, or with KiB, MiB, GiB, TiB", s)
	}
	return Bytes(n) * size, nil
}

// Words is a list of words. As text they are separated by commas.
type Words []string

func (w Words) String() string { return strings.Join(w, ",") }

// set reads text into the setting at v.
func set(v reflect.Value, text string) error {
	switch p := v.Addr().Interface().(type) {
	case *string:
		*p = text
	case *bool:
		switch text {
		case "true", "false":
			*p = text == "true"
		default:
			return fmt.Errorf("%q is neither true nor false", text)
		}
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is no whole number", text)
		}
		*p = n
	case *Bytes:
		n, err := ParseBytes(text)
		if err != nil {
			return err
		}
		*p = n
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is no duration; want a number with a unit, such as 30s or 5m", text)
		}
		*p = d
	case *Words:
		*p = nil
		for word := range strings.SplitSeq(text, ",") {
			if word = strings.TrimSpace(word); word != "" {
				*p = append(*p, word)
			}
		}
	case *[]netip.Prefix:
		list, err := parsePrefixes(text)
		if err != nil {
			return err
		}
		*p = list
	default:
		return fmt.Errorf("settings of type %s cannot be read", v.Type())
	}
	return nil
}

// text is the reverse of set: what it returns, set reads to the same value.
func text(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case []netip.Prefix:
		words := make([]string, len(x))
		for i, p := range x {
			words[i] = p.String()
		}
		return strings.Join(words, ",")
	default:
		return fmt.Sprint(x)
	}
}

// parsePrefixes reads networks separated by commas. Bits beyond the prefix are
// refused, since 10.0.0.7/8 is more often a mistake than a habit.
func parsePrefixes(s string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	var faults []string
	for _, word := range strings.Split(s, ",") {
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		p, err := netip.ParsePrefix(word)
		switch {
		case err != nil:
			if a, err := netip.ParseAddr(word); err == nil {
				faults = append(faults, fmt.Sprintf("%q is an address; as a network it is %s/%d", word, a, a.BitLen()))
				continue
			}
			faults = append(faults, fmt.Sprintf("%q is no network; want an address and a length, such as 10.0.0.0/8 or fd00::/8", word))
		case p != p.Masked():
			faults = append(faults, fmt.Sprintf("%q has bits beyond its length; the network is %s", word, p.Masked()))
		default:
			list = append(list, p)
		}
	}
	if len(faults) > 0 {
		return nil, errors.New(strings.Join(faults, "; "))
	}
	return list, nil
}

package consent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// purposes is a set of TCF purposes, bit p for purpose p, 1 to 11.
type purposes uint16

func (p purposes) has(n int) bool { return p>>uint(n)&1 == 1 }

// onInterest are the purposes for which legitimate interest can be a ground.
const onInterest = purposes(1<<2 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11)

// Vendor is what a vendor declares in the Global Vendor List.
type Vendor struct {
	ID   uint16
	Name string
	// Deleted vendors have no ground for anything from that moment on.
	Deleted time.Time

	consent, interest, flexible purposes
}

// VendorList is the IAB's Global Vendor List, as far as it decides.
type VendorList struct {
	Version int
	Updated time.Time
	vendors map[uint16]*Vendor
}

// Vendor returns a vendor, or nil if the list has none of that ID.
func (l *VendorList) Vendor(id uint16) *Vendor {
	if l == nil {
		return nil
	}
	return l.vendors[id]
}

// Len is the number of vendors.
func (l *VendorList) Len() int { return len(l.vendors) }

// ParseVendorList reads vendor-list.json of GVL specification 3, as it is at
// https://vendor-list.consensu.org/v3/vendor-list.json.
func ParseVendorList(r io.Reader) (*VendorList, error) {
	var doc struct {
		Spec    int                         `json:"gvlSpecificationVersion"`
		Version int                         `json:"vendorListVersion"`
		Updated time.Time                   `json:"lastUpdated"`
		Vendors map[string]*json.RawMessage `json:"vendors"`
	}
	if err := json.NewDecoder(r).Decode(&doc); err != nil {
		return nil, fmt.Errorf("read the vendor list: %w", err)
	}
	if doc.Spec != 3 || doc.Version < 1 || len(doc.Vendors) == 0 {
		return nil, fmt.Errorf("read the vendor list: specification %d, version %d, %d vendors; want specification 3, from https://vendor-list.consensu.org/v3/vendor-list.json", doc.Spec, doc.Version, len(doc.Vendors))
	}
	l := &VendorList{Version: doc.Version, Updated: doc.Updated, vendors: make(map[uint16]*Vendor, len(doc.Vendors))}
	for key, raw := range doc.Vendors {
		v, err := parseVendor(raw)
		if err != nil {
			return nil, fmt.Errorf("read the vendor list: vendor %.20q: %w", key, err)
		}
		if fmt.Sprint(v.ID) != key {
			return nil, fmt.Errorf("read the vendor list: vendor %.20q has the id %d", key, v.ID)
		}
		l.vendors[v.ID] = v
	}
	return l, nil
}

func parseVendor(raw *json.RawMessage) (*Vendor, error) {
	if raw == nil {
		return nil, errors.New("is null")
	}
	var doc struct {
		ID       uint16     `json:"id"`
		Name     string     `json:"name"`
		Consent  []int      `json:"purposes"`
		Interest []int      `json:"legIntPurposes"`
		Flexible []int      `json:"flexiblePurposes"`
		Deleted  *time.Time `json:"deletedDate"`
	}
	if err := json.Unmarshal(*raw, &doc); err != nil {
		return nil, err
	}
	v := &Vendor{ID: doc.ID, Name: doc.Name}
	if doc.ID == 0 {
		return nil, errors.New("id 0")
	}
	if doc.Deleted != nil {
		v.Deleted = *doc.Deleted
	}
	for _, f := range []struct {
		from []int
		to   *purposes
	}{{doc.Consent, &v.consent}, {doc.Interest, &v.interest}, {doc.Flexible, &v.flexible}} {
		for _, p := range f.from {
			if p < 1 || p > 15 {
				return nil, fmt.Errorf("purpose %d", p)
			}
			*f.to |= 1 << uint(p)
		}
	}
	// Some purposes take a yes and nothing else, whatever is declared.
	v.interest &= onInterest
	v.flexible &= onInterest
	return v, nil
}

// CMPList is the IAB's list of consent platforms, as far as it decides: those
// that were deleted.
type CMPList struct{ deleted map[uint16]time.Time }

// ParseCMPList reads cmp-list.json, as it is at
// https://cmplist.consensu.org/v2/cmp-list.json.
func ParseCMPList(r io.Reader) (*CMPList, error) {
	var doc struct {
		CMPs map[string]struct {
			ID      uint16     `json:"id"`
			Deleted *time.Time `json:"deletedDate"`
		} `json:"cmps"`
	}
	if err := json.NewDecoder(r).Decode(&doc); err != nil {
		return nil, fmt.Errorf("read the list of consent platforms: %w", err)
	}
	if len(doc.CMPs) == 0 {
		return nil, errors.New("read the list of consent platforms: it names none; want https://cmplist.consensu.org/v2/cmp-list.json")
	}
	l := &CMPList{deleted: map[uint16]time.Time{}}
	for _, c := range doc.CMPs {
		if c.Deleted != nil {
			l.deleted[c.ID] = *c.Deleted
		}
	}
	return l, nil
}

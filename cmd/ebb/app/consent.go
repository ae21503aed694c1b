package app

import (
	"fmt"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/consent"
	"github.com/ebb-dmp/ebb/taxonomy"
	decide "github.com/ebb-dmp/ebb/taxonomy/consent"
)

// lists are the IAB's lists that the operator supplies, as they were at the start.
type lists struct {
	vendors *consent.VendorList
	cmps    *consent.CMPList
}

func readLists(fs log.FS, c *config.Consent) (l lists, err error) {
	if c.GVL != "" {
		f, err := fs.Open(c.GVL)
		if err != nil {
			return l, fmt.Errorf("read the vendor list: %w; correct consent.gvl", err)
		}
		defer f.Close()
		if l.vendors, err = consent.ParseVendorList(f); err != nil {
			return l, fmt.Errorf("consent.gvl: %w", err)
		}
	}
	if c.CMPs != "" {
		f, err := fs.Open(c.CMPs)
		if err != nil {
			return l, fmt.Errorf("read the list of consent platforms: %w; correct consent.cmps", err)
		}
		defer f.Close()
		if l.cmps, err = consent.ParseCMPList(f); err != nil {
			return l, fmt.Errorf("consent.cmps: %w", err)
		}
	}
	return l, nil
}

// newReader makes what reads consent strings for these destinations.
func newReader(c *config.Consent, l lists, destinations []delivery.Destination) (*consent.Reader, error) {
	o := consent.Options{Role: consent.Role(c.Role), Vendor: uint16(c.GVLID), List: l.vendors, CMPs: l.cmps, PurposeOne: c.Countries()}
	for _, d := range destinations {
		o.Destinations = append(o.Destinations, consent.Destination{ID: d.ID, Vendor: uint16(d.GVLID), Syncs: d.SyncURL != ""})
	}
	return consent.NewReader(o)
}

// NewConsentReader returns what reads consent strings by the settings alone, for
// a command beside the server.
func NewConsentReader(fs log.FS, c *config.Consent, destinations []delivery.Destination) (*consent.Reader, error) {
	l, err := readLists(fs, c)
	if err != nil {
		return nil, err
	}
	return newReader(c, l, destinations)
}

// readStrings is what the edge asks: the reader of the moment.
func (a *App) readStrings(dst []decide.Statement, t tagserver.Strings, day taxonomy.Day) []decide.Statement {
	return a.catalog.Load().strings.Read(dst, t, day)
}

// ExplainConsent decodes a consent string into words and decides on it for each
// destination.
func (a *App) ExplainConsent(s string) consent.Explanation {
	return a.catalog.Load().strings.Explain(s, a.env.millis().Day())
}

// withhold is the part of the decision on export that is not a visitor's: it is
// taken anew with each delivery, by the vendor list and categories in force.
func (c *catalog) withhold(d *delivery.Destination, day taxonomy.Day) func(taxonomy.AudienceID) string {
	vendor := c.strings.Blocked(d.ID, day)
	return func(id taxonomy.AudienceID) string {
		if vendor != "" {
			return vendor
		}
		if t := c.sensitive(id); t != "" {
			return "it tells of " + string(t) + ", which is sensitive; take it out of the rule, or keep the audience to this house"
		}
		return ""
	}
}

// sensitive returns what an audience tells of that is sensitive, "" if nothing is:
// by the definitions, whatever rules are in force, so that what was marked a
// moment ago leaves no more.
func (c *catalog) sensitive(id taxonomy.AudienceID) taxonomy.Trait {
	c.secretsMade.Do(func() {
		c.secrets = map[taxonomy.AudienceID]taxonomy.Trait{}
		f := c.classifier.Forest()
		for _, d := range c.audiences.All() {
			if t := c.audiences.TellsOf(d.ID, f.Sensitive); t != "" {
				c.secrets[d.ID] = t
			}
		}
	})
	return c.secrets[id]
}

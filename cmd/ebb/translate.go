package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/segments/query"
	segmentrules "github.com/ebb-dmp/ebb/segments/query/aam"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/iab"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	traitrules "github.com/ebb-dmp/ebb/taxonomy/rules/aam"
)

// translateCommand turns definitions of one form into another. It needs neither
// a server nor data.
type translateCommand struct {
	Rule         translateRule    `cmd:"" help:"An audience's rule from text to JSON, or back."`
	AAMTrait     translateTrait   `cmd:"" name:"aam-trait" help:"An Audience Manager trait's rule to classifier rules."`
	AAMSegment   translateSegment `cmd:"" name:"aam-segment" help:"An Audience Manager segment's rule to an audience's rule."`
	ContentCodes translateCodes   `cmd:"" name:"content-codes" help:"Classifier rules for pages with codes of IAB Content 1.0."`
	IABFiles     translateFiles   `cmd:"" name:"iab-files" help:"What was found in IAB Tech Lab's files that come with the program."`
}

type translateRule struct {
	Rule string `arg:"" help:"A file with the rule, as text or in JSON, or - for standard input."`
}

func (translateRule) Help() string {
	return `Example:

    ebb translate rule rule.txt -o json

where rule.txt has c:products/grocery in 30d on 3+ days and not in list crm`
}

// ruleFaces is a rule in both faces.
type ruleFaces struct {
	Rule  json.RawMessage `json:"rule"`
	Text  string          `json:"rule_text"`
	Notes []string        `json:"notes,omitempty"`
}

// Run reads a rule in either face and prints both.
func (t translateRule) Run(c *cli.Context) error {
	b, err := readInput(c, t.Rule)
	if err != nil {
		return err
	}
	var e query.Expr
	if isJSON(b) {
		e, err = query.Parse(b)
	} else {
		e, err = query.ParseText(string(b))
	}
	if err != nil {
		return cli.Usage(fmt.Errorf("read the rule in %s: %w", t.Rule, err))
	}
	return printRule(c, e, nil)
}

// isJSON reports whether a rule is in JSON: text never begins with a brace.
func isJSON(b []byte) bool { return strings.HasPrefix(strings.TrimSpace(string(b)), "{") }

func printRule(c *cli.Context, e query.Expr, notes []string) error {
	doc := ruleFaces{query.Print(e), query.Text(e), notes}
	var rows cli.Rows
	rows.Add("text", doc.Text)
	rows.Add("json", string(doc.Rule))
	for _, n := range notes {
		c.Note("%s", n)
	}
	return c.Print(doc, rows)
}

type translateTrait struct {
	Rule  string   `arg:"" help:"A file with the trait's rule, or - for standard input."`
	ID    string   `required:"" help:"The ID of the first rule; others add a number."`
	Title string   `help:"The title of the rules."`
	Then  []string `required:"" sep:"none" help:"What the rules give, such as c:products/grocery; may be repeated."`
}

func (translateTrait) Help() string {
	return `Prints classifier rules that hold exactly when the trait's rule does; PUT each to /api/v1/rules/ID. What means something else here is noted on standard error.

Example:

    ebb translate aam-trait trait.txt --id make-a --then k:make=a

where trait.txt has (c_make == "A") AND (price >= 1.00)`
}

// Run prints the rules.
func (t translateTrait) Run(c *cli.Context) error {
	b, err := readInput(c, t.Rule)
	if err != nil {
		return err
	}
	got, err := traitrules.Parse(t.ID, t.Title, string(b), t.Then)
	if err != nil {
		return cli.Usage(fmt.Errorf("read the trait's rule in %s: %w", t.Rule, err))
	}
	for _, n := range got.Notes {
		c.Note("%s", n)
	}
	return printRules(c, struct {
		Rules []rules.Rule `json:"rules"`
		Notes []string     `json:"notes,omitempty"`
	}{got.Rules, got.Notes}, got.Rules)
}

func printRules(c *cli.Context, doc any, list []rules.Rule) error {
	var rows cli.Rows
	for i := range list {
		b, err := json.Marshal(&list[i])
		if err != nil {
			return fmt.Errorf("print rule %s: %w", list[i].ID, err)
		}
		rows.Add(string(b))
	}
	return c.Print(doc, rows)
}

type translateSegment struct {
	Rule   string            `arg:"" help:"A file with the segment's rule, or - for standard input."`
	Traits map[string]string `help:"What a trait is here, such as 1000=c:products/grocery; may be repeated. Others are k:aam=ID." mapsep:"none"`
}

func (translateSegment) Help() string {
	return `Prints the rule of an audience. What means something else here is noted on standard error; what cannot be said is an error with its place.

Example:

    ebb translate aam-segment segment.txt --traits 1000=c:products/grocery

where segment.txt has (frequency([1000T] <= 2D) >= 5) AND NOT 2000T`
}

// Run prints the rule.
func (t translateSegment) Run(c *cli.Context) error {
	b, err := readInput(c, t.Rule)
	if err != nil {
		return err
	}
	for id := range t.Traits {
		if _, err := strconv.ParseUint(id, 10, 64); err != nil {
			return cli.Usage(fmt.Errorf("--traits %s: want the number of a trait, such as 1000=c:products/grocery", id))
		}
	}
	got, err := segmentrules.Parse(string(b), func(id uint64) (taxonomy.Trait, bool) {
		if trait, ok := t.Traits[strconv.FormatUint(id, 10)]; ok {
			return taxonomy.Trait(trait), true
		}
		return taxonomy.Trait(fmt.Sprintf("k:aam=%d", id)), true
	})
	if err != nil {
		return cli.Usage(fmt.Errorf("read the segment's rule in %s: %w", t.Rule, err))
	}
	return printRule(c, got.Rule, got.Notes)
}

type translateCodes struct {
	Field string `default:"prop.iab" help:"Where a page has its code."`
	ID    string `default:"iab" help:"What the IDs of the rules begin with."`
}

func (translateCodes) Help() string {
	return `Prints classifier rules by which a page with a code of IAB Content 1.0, such as IAB2-1, is about the categories of Content 3.1 and Ad Product 2.0 that the official mappings name. Codes that have no place in Content 3.1 are noted on standard error.

Example:

    ebb translate content-codes --field prop.iab -o json`
}

// Run prints the rules.
func (t translateCodes) Run(c *cli.Context) error {
	x, err := iab.NewCrosswalk()
	if err != nil {
		return err
	}
	list := x.Rules(t.ID, t.Field)
	for _, code := range slices.Sorted(maps.Keys(x.Lost)) {
		c.Note("%s: %s", code, x.Lost[code])
	}
	return printRules(c, struct {
		Rules []rules.Rule      `json:"rules"`
		Lost  map[string]string `json:"lost"`
	}{list, x.Lost}, list)
}

type translateFiles struct{}

func (translateFiles) Help() string {
	return `Prints, of every published taxonomy and mapping that comes with the program, the rows that were read, the codes that have no place, and every defect with its line and how it was handled. -o json has all, also of each lost code.

Example:

    ebb translate iab-files
    ebb translate iab-files -o json`
}

// Run prints the reports.
func (translateFiles) Run(c *cli.Context) error {
	all, err := iab.Reports()
	if err != nil {
		return err
	}
	var rows cli.Rows
	rows.Add("FILE", "ROWS", "DEFECTS", "LOST")
	for _, r := range all {
		rows.Add(r.File, strconv.Itoa(r.Rows), strconv.Itoa(len(r.Defects)), strconv.Itoa(len(r.Lost)))
		for _, d := range r.Defects {
			rows.Add("  line "+strconv.Itoa(d.Line), d.ID, string(d.Kind), d.Detail)
		}
	}
	c.Note("%s", iab.Attribution)
	return c.Print(struct {
		Files []iab.Report `json:"files"`
	}{all}, rows)
}

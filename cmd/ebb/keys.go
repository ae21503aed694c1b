package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/keyfile"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

type keysCommand struct {
	Show   keysShow   `cmd:"" help:"Show which keys there are, never the keys."`
	New    keysNew    `cmd:"" help:"Make the keys of a new cluster."`
	Extend keysExtend `cmd:"" help:"Make the store keys of this and the next four quarters."`
	Rotate keysRotate `cmd:"" help:"Sign cookies with a new key."`
	Prune  keysPrune  `cmd:"" help:"Destroy keys whose use is over."`
	Retire keysRetire `cmd:"" help:"Destroy the store key of a space other than cookie."`
}

func (keysCommand) Help() string {
	return `All keys are in one file, beside the data directory unless the setting keys says otherwise. LOST KEYS ORPHAN THE DATA: without its store key nobody can tell any more to whom what is kept belongs. Copy the file to a safe place after each change, and not into the backups of the data.

The file is the same on all nodes: change it on one, then copy it to the others. A server reads its keys when it starts.

Examples:

    ebb keys show
    ebb keys extend
    ebb keys rotate --stage    # then copy the file to all nodes, and
    ebb keys rotate`
}

// changed is the answer of a command that changes keys.
type changed struct {
	File    string   `json:"file"`
	Changed bool     `json:"changed"`
	What    []string `json:"what"`
}

// change lets f make a new ring, writes it, and answers with what f says it did.
func change(c *cli.Context, f func(r *keys.Ring, today taxonomy.Day) (*keys.Ring, []string, error)) error {
	settings, err := c.Config()
	if err != nil {
		return err
	}
	doc := changed{File: settings.KeysFile(), What: []string{}}
	err = keyfile.Update(doc.File, func(r *keys.Ring) (*keys.Ring, error) {
		next, what, err := f(r, taxonomy.DayOf(c.Now()))
		if err != nil {
			return nil, err
		}
		doc.Changed = next != r
		doc.What = append(doc.What, what...)
		return next, nil
	})
	if err != nil {
		return err
	}
	var rows cli.Rows
	for _, w := range doc.What {
		rows.Add(w)
	}
	if doc.Changed {
		rows.Add(fmt.Sprintf("%s is written; keep a copy in a safe place, and restart the server", doc.File))
	}
	return c.Print(doc, rows)
}

type keysShow struct{}

func (keysShow) Help() string {
	return `Examples:

    ebb keys show
    ebb keys show --data /var/lib/ebb/data -o json`
}

// Run prints the IDs of the keys on which kept data depends.
func (keysShow) Run(c *cli.Context) error {
	settings, err := c.Config()
	if err != nil {
		return err
	}
	ring, err := keyfile.Read(settings.KeysFile())
	if err != nil {
		return err
	}
	today := taxonomy.DayOf(c.Now())
	doc := struct {
		File      string       `json:"file"`
		Keys      []string     `json:"keys"`
		ExtendDue int          `json:"extend_due_days"`
		ExtendBy  taxonomy.Day `json:"extend_by"`
	}{settings.KeysFile(), ring.KeyIDs(), ring.ExtendDue(today), today + taxonomy.Day(ring.ExtendDue(today))}
	rows := cli.Rows{Head: []string{"KEY", "ID"}}
	for _, id := range doc.Keys {
		i := strings.LastIndexByte(id, '/')
		rows.Add(id[:i], id[i+1:])
	}
	if err := c.Print(doc, rows); err != nil {
		return err
	}
	if doc.ExtendDue <= 30 {
		c.Note("new visitors find a store key for %d more days: run `ebb keys extend` before %s", doc.ExtendDue, doc.ExtendBy)
	}
	return nil
}

type keysNew struct {
	IfMissing bool `help:"If the file is there already, end well and change nothing."`
}

func (keysNew) Help() string {
	return `Makes the file of keys of a new installation. Run it once, on one machine, then copy the file to all nodes of the cluster: a node with other keys would not know the visitors of the others. It never replaces a file. With the embedded store it is not needed, since ` + "`ebb init` and `ebb serve`" + ` make the keys.

Examples:

    ebb keys new --keys /etc/ebb/keys.json
    ebb keys new --data /var/lib/ebb -o json`
}

// Run makes the file of keys.
func (k keysNew) Run(c *cli.Context) error {
	settings, err := c.Config()
	if err != nil {
		return err
	}
	path := settings.KeysFile()
	ring, err := keys.Generate(c.Rand, taxonomy.DayOf(c.Now()))
	if err == nil {
		err = keyfile.Create(path, ring)
	}
	if errors.Is(err, fs.ErrExist) && k.IfMissing {
		c.Note("%s is there already; nothing was changed", path)
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; nothing was changed", path)
	}
	if err != nil {
		return err
	}
	var rows cli.Rows
	rows.Add("keys", path)
	rows.Add("next", "copy the file to every node and to a safe place, then run `ebb migrate up` and `ebb init`")
	return c.Print(struct {
		File string `json:"file"`
	}{path}, rows)
}

type keysExtend struct {
	Space taxonomy.Space `placeholder:"SPACE" help:"Make the store key of this space, such as own:crm, if there is none; an import needs it."`
}

func (keysExtend) Help() string {
	return `Visitors of each quarter have their own store key, made ahead. /readyz warns 30 days before the last quarter that has one ends. Running it again changes nothing.

Examples:

    ebb keys extend
    ebb keys extend --space own:crm
    ebb keys extend -o json`
}

// Run adds the store keys that are missing (R30).
func (k keysExtend) Run(c *cli.Context) error {
	return change(c, func(r *keys.Ring, today taxonomy.Day) (*keys.Ring, []string, error) {
		if k.Space != "" {
			if slices.Contains(r.Spaces(), k.Space) {
				return r, []string{fmt.Sprintf("nothing to do: there is a store key for %s", k.Space)}, nil
			}
			next, err := r.WithSpace(c.Rand, k.Space)
			return next, []string{fmt.Sprintf("made the store key of %s", k.Space)}, err
		}
		next, added, err := r.Extend(c.Rand, today)
		if err != nil {
			return nil, nil, err
		}
		if added == 0 {
			return r, []string{fmt.Sprintf("nothing to do: there are store keys for %d more days", r.ExtendDue(today))}, nil
		}
		return next, []string{fmt.Sprintf("made the store keys of %d more quarters", added)}, nil
	})
}

type keysRotate struct {
	Stage bool `help:"Only add the new key: it is accepted everywhere before it signs anywhere."`
}

func (keysRotate) Help() string {
	return `Cookies that are signed with the old key stay good until they end. With several nodes, stage first and copy the file to all, so that none meets a cookie whose key it does not know.

Examples:

    ebb keys rotate
    ebb keys rotate --stage`
}

// Run stages or switches the key that signs cookies.
func (k keysRotate) Run(c *cli.Context) error {
	return change(c, func(r *keys.Ring, today taxonomy.Day) (*keys.Ring, []string, error) {
		if k.Stage {
			next, err := r.Stage(c.Rand)
			return next, []string{"staged a new cookie key; copy the file to all nodes, then run `ebb keys rotate`"}, err
		}
		next, err := r.Rotate(c.Rand, today)
		return next, []string{"cookies are signed with the new key; the old one is accepted until its last cookie ends"}, err
	})
}

type keysPrune struct{}

func (keysPrune) Help() string {
	return `A store key is over 180 days after its quarter: its last cookie has ended, and the last event of that cookie. Once it is destroyed, even a forgotten backup from that time belongs to nobody. A cookie key is over when the last cookie it signed has ended.

Example:

    ebb keys prune`
}

// Run destroys the keys whose use is over.
func (keysPrune) Run(c *cli.Context) error {
	return change(c, func(r *keys.Ring, today taxonomy.Day) (*keys.Ring, []string, error) {
		next, gone := r.Prune(today)
		if len(gone) == 0 {
			return r, []string{"nothing to do: every key is in use"}, nil
		}
		for i, id := range gone {
			gone[i] = "destroyed " + id
		}
		return next, gone, nil
	})
}

type keysRetire struct {
	Space taxonomy.Space `arg:"" help:"The space, such as own:crm or partner:acme."`
	Yes   bool           `help:"Yes, what is kept of this space shall never again be found by its IDs."`
}

func (keysRetire) Help() string {
	return `There is no way back: IDs of this space that come later are new visitors, and erasures of its visitors no longer find them. Their data ends with its 90 days.

Example:

    ebb keys retire own:crm --yes`
}

// Run destroys one space's store key, when told twice (R30).
func (k keysRetire) Run(c *cli.Context) error {
	if !k.Yes {
		return cli.Usage(errors.New("retiring a space cannot be undone; if you mean it, add --yes"))
	}
	return change(c, func(r *keys.Ring, _ taxonomy.Day) (*keys.Ring, []string, error) {
		next, err := r.WithoutSpace(k.Space)
		return next, []string{fmt.Sprintf("destroyed the store key of %s", k.Space)}, err
	})
}

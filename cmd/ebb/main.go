// Command ebb is the whole of Ebb: the server, and what operators and ad ops do
// beside it.
//
// A subcommand is one file: a struct with its flags, a Help method with
// examples, and Run(*cli.Context) error. It has one line in commands.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
)

// commands is the command line: what holds for all, then one line a subcommand.
type commands struct {
	Output     cli.Format `short:"o" enum:"table,json" default:"table" placeholder:"table|json" help:"Answer in a table, or in one JSON document."`
	ConfigFile string     `name:"config" env:"EBB_CONFIG" placeholder:"FILE" help:"Read settings from this YAML file."`

	Demo  demoCommand  `cmd:"" help:"Show all of Ebb on real behaviour."`
	Serve serveCommand `cmd:"" help:"Run the server."`
	Init  initCommand  `cmd:"" help:"Make an empty data directory with its keys."`

	Import     importCommand     `cmd:"" help:"Take a file of visitors in."`
	Audience   audienceCommand   `cmd:"" help:"List, count and build audiences."`
	Report     reportCommand     `cmd:"" help:"Say how audiences overlap, and what their members are like."`
	Translate  translateCommand  `cmd:"" help:"Turn rules from one form into another."`
	Lookalike  lookalikeCommand  `cmd:"" help:"Show how good lookalikes are."`
	Deliver    deliverCommand    `cmd:"" help:"Deliver audiences to destinations."`
	Matches    matchesCommand    `cmd:"" help:"Take partners' IDs in and out as files."`
	Plan       planCommand       `cmd:"" help:"Say what definitions in files would change."`
	Apply      applyCommand      `cmd:"" help:"Make the definitions those of the files."`
	Export     exportCommand     `cmd:"" help:"Write the definitions into files."`
	Drafts     draftsCommand     `cmd:"" help:"See, save, publish and discard drafts of rules and taxonomies."`
	Versions   versionsCommand   `cmd:"" help:"See and go back to former versions of definitions, and what names them."`
	Consent    consentCommand    `cmd:"" help:"Explain consent strings."`
	Privacy    privacyCommand    `cmd:"" help:"Check visitors' receipts."`
	Tag        tagCommand        `cmd:"" help:"Print and check the tag of a site."`
	Operations operationsCommand `cmd:"" help:"See, wait for and cancel what runs in the background."`
	Retention  retentionCommand  `cmd:"" help:"Audit, forget and erase."`
	Backup     backupCommand     `cmd:"" help:"Write and check backups."`
	Restore    restoreCommand    `cmd:"" help:"Bring a backup back into an empty data directory."`

	Access  accessCommand  `cmd:"" help:"Give and revoke API keys."`
	Audit   auditCommand   `cmd:"" help:"List and verify who changed what."`
	Migrate migrateCommand `cmd:"" help:"Make and update the tables in Cassandra."`
	Move    moveCommand    `cmd:"" help:"Move the installation to another store, or another number of shards."`
	Log     logCommand     `cmd:"" help:"Show and skip holes of a cluster's log."`

	Health  healthCommand  `cmd:"" help:"Ask a running server how it is."`
	Keys    keysCommand    `cmd:"" help:"Show and change the secret keys."`
	Config  configCommand  `cmd:"" help:"Check and print the settings."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

const description = `Ebb keeps what pseudonymous browsers did on your sites for at most 90 days, turns it into audiences, and hands those to DSPs.

Every setting can be given in the file named by --config, as an environment variable EBB_…, or as a flag; the later wins. "ebb config print" shows all settings, their values and where each came from; "ebb config --help" explains them.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks; a second one finds the default again and ends the
	// program at once, which is safe at any moment.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:]))
}

// run reads the command line, runs one subcommand, and returns the status: 0 if
// it did what it should, 1 if it failed, 2 if it was called wrongly, 3 if a plan
// would change something.
func run(ctx context.Context, args []string) int {
	var cmd commands
	settings := newFlags()
	parser, err := kong.New(&cmd,
		kong.Name("ebb"),
		kong.Description(description),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true, WrapUpperBound: 100}),
		kong.Embed(settings.target()),
		kong.Exit(os.Exit),
	)
	if err != nil {
		panic(err) // a mistake in a struct tag: no argument brings it about
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return report(os.Stderr, usage(parser, err))
	}
	return report(os.Stderr, parsed.Run(&cli.Context{
		Context: ctx,
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Output:  cmd.Output,
		Now:     time.Now,
		Rand:    rand.Reader,
		Environ: os.Environ(),
		Load: func() (*config.Resolved, error) {
			return load(cmd.ConfigFile, os.Environ(), settings.given())
		},
	}))
}

// load reads the file, if one is named, and resolves the settings.
func load(file string, environ []string, flags map[string]string) (*config.Resolved, error) {
	in := config.Input{File: file, Environ: environ, Flags: flags, CheckSchedule: app.CheckSchedule}
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		in.Content = b
	}
	return config.Load(in)
}

// usage says what was wrong with the command line and where help is.
func usage(parser *kong.Kong, err error) error {
	help := "ebb --help"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if at := parse.Context.Selected(); at != nil {
			help = at.FullPath() + " --help"
		}
	}
	return cli.Usage(fmt.Errorf("%w; run `%s`", err, help))
}

// report prints why a command failed, once, and returns its status.
func report(w io.Writer, err error) int {
	if err != nil && !errors.Is(err, cli.ErrSilent) {
		fmt.Fprintf(w, "ebb: %v\n", err)
	}
	return cli.Status(err)
}

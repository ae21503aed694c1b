package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/retention/cassandra"
)

// files audits the tables of the cluster and the files of this machine's node.
func (r retentionAudit) files(c *cli.Context) error {
	o, err := cassandraOptions(c)
	if err != nil {
		return err
	}
	st, err := cassandra.Open(c, o)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	defer st.Close()
	report, err := st.Audit(c, cassandra.AuditOptions{Tools: []cassandra.Tools{{Node: "of this machine", Files: r.list, Run: r.run}}})
	if err != nil {
		return err
	}
	rows, bad := auditRows(report.Places())
	bad = append(bad, report.Unreached...)
	return errors.Join(c.Print(report, rows), tooOld(bad))
}

// list finds the data files of a table: the folder of a table has its name and an
// ID.
func (r retentionAudit) list(_ context.Context, keyspace, table string) (files []string, err error) {
	for _, dir := range r.Data {
		found, err := filepath.Glob(filepath.Join(dir, keyspace, table+"-*", "*-Data.db"))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	return files, nil
}

func (r retentionAudit) run(ctx context.Context, tool string, args ...string) ([]byte, error) {
	if r.Tools != "" {
		tool = filepath.Join(r.Tools, tool)
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %.500s; name the folder of Cassandra's tools with --cassandra-tools", err, strings.TrimSpace(said.String()))
	}
	return out, nil
}

package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"text/tabwriter"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/caddymodule"
	"github.com/metricsgate/metricsgate/survey"
)

func surveyCommand() *cobra.Command {
	var config, adapter string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "survey <access.log|file.har|->...",
		Short: "Says what measures people, out of access logs and HAR files, and what of it a configuration gates",
		Long: `
Says which recorded requests look like metrics, and why; which of them a
configuration gates, which pass, and which go to other hosts and so past the edge;
and which lines of a Caddyfile would gate what passes.

It reads Caddy's JSON access log, the combined format of nginx and Apache, and HAR
files, which the developer tools of every browser write; also compressed by gzip.
A - is the standard input. Nothing is sent. What is printed holds no address and
no identifier: where a path has one, there is a *.`,
		Example: `  caddy metrics-gate survey /var/log/nginx/access.log*
  caddy metrics-gate survey accounts.har --config /etc/caddy/Caddyfile`,
		Args: takes("the file to read", "survey /var/log/nginx/access.log", math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := new(survey.Survey)
			if config != "" {
				edge, err := edgeOf(config, adapter)
				if err != nil {
					return err
				}
				s.Edge = edge
			}
			unread, notes, err := readRecordings(cmd.Context(), s, args, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if asJSON {
				return printSurveyJSON(cmd.OutOrStdout(), s.Report(), unread, notes)
			}
			printSurvey(cmd.OutOrStdout(), s.Report(), unread, notes, config != "")
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&config, "config", "c", "", "the configuration whose gates are looked at (default: none, so nothing is gated)")
	flags.StringVarP(&adapter, "adapter", "a", "", "the adapter of the configuration (default: that of its name, as caddy run has it)")
	flags.BoolVar(&asJSON, "json", false, "print it as a JSON object")
	return cmd
}

func edgeOf(config, adapter string) (survey.Edge, error) {
	adapted, _, _, err := caddycmd.LoadConfig(config, adapter)
	if err != nil {
		return nil, err
	}
	sites, err := caddymodule.SitesOf(adapted)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", config, err)
	}
	return sites, nil
}

// readRecordings reads one file after the other. A note says of one that it could
// not be read to its end; that there is no request in any is an error.
func readRecordings(ctx context.Context, s *survey.Survey, names []string, in io.Reader, errOut io.Writer) (unread int, notes []string, err error) {
	all, others := 0, 0
	for _, name := range names {
		recording := in
		if name != "-" {
			file, err := os.Open(name)
			if err != nil {
				return 0, nil, err
			}
			defer func() { _ = file.Close() }()
			recording = file
		}
		read := newMeter(ctx, recording)
		defer func() { _ = read.Close() }()
		progress := newProgress(errOut, "requests")
		requests := int64(0)
		counts, err := survey.Read(read, func(r *survey.Request) {
			s.Add(r)
			// Elsewhere than on a terminal the report is all that is wanted.
			if requests++; progress.terminal && requests%1000 == 0 {
				progress.show(fmt.Sprintf("%s: %d requests", name, requests), requests, read.share())
			}
		})
		progress.clear()
		unread += counts.Unread
		all, others = all+counts.Requests, others+counts.Others
		switch {
		case errors.Is(err, survey.ErrFormat):
			return 0, nil, fmt.Errorf("%s: %w", name, err)
		case err != nil:
			notes = append(notes, fmt.Sprintf("%s cannot be read beyond its first %d requests: %v", name, counts.Requests, err))
		}
	}
	switch {
	case all > 0:
		return unread, notes, nil
	case len(notes) > 0:
		return 0, nil, errors.New(strings.Join(notes, "; "))
	case others > 0:
		return 0, nil, fmt.Errorf("%s: %d lines, and none is a request: Caddy's own log looks like that; give the access log, which the directive log writes", strings.Join(names, ", "), others)
	default:
		return 0, nil, fmt.Errorf("%s: no request is in it; give an access log, or a HAR file", strings.Join(names, ", "))
	}
}

func printSurveyJSON(out io.Writer, report survey.Report, unread int, notes []string) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		survey.Report
		Unread int      `json:"unread,omitempty"`
		Notes  []string `json:"notes,omitempty"`
	}{report, unread, notes})
}

// standings are the parts of a survey, in their order.
var standings = []struct{ standing, title string }{
	{survey.Passes, "No gate has a route for these:"},
	{survey.Unseen, "A gate has a route for these, and may not see them (another host, port or handle, or a matcher):"},
	{survey.Elsewhere, "These go to other hosts, and so past the edge. Have the SDK send them to your own site, or switch it off for people who opted out:"},
	{survey.Gated, "These are gated:"},
}

// because says why, to people.
var because = map[string]string{
	survey.WhySDK: "an SDK's", survey.WhyBeacon: "sent as a beacon", survey.WhyPath: "its path", survey.WhyTiny: "tiny answers",
}

func printSurvey(out io.Writer, report survey.Report, unread int, notes []string, configured bool) {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	looking := report.Left
	for _, f := range report.Findings {
		looking += f.Requests
	}
	say("%d requests, of which %d look like metrics.", report.Requests, looking)
	if unread > 0 {
		say("%d lines or entries could not be read.", unread)
	}
	if report.Left > 0 {
		say("%d requests that look like metrics are not listed: there are too many kinds.", report.Left)
	}
	for _, note := range notes {
		say("%s", note)
	}
	for _, part := range standings {
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		empty := true
		for _, f := range report.Findings {
			if f.Standing != part.standing {
				continue
			}
			if empty {
				say("\n%s\n", part.title)
				_, _ = fmt.Fprintln(table, "  REQUESTS\tSTATUS\tMETHOD\tPATH\tWHY")
				empty = false
			}
			why := make([]string, len(f.Why))
			for i, word := range f.Why {
				why[i] = because[word]
			}
			text := strings.Join(why, ", ")
			if f.Preset != "" {
				text = f.Preset + ": " + text
			}
			if f.Route != "" {
				text += "; route " + f.Route
			}
			_, _ = fmt.Fprintf(table, "  %d\t%d\t%s\t%s%s\t%s\n", f.Requests, f.Status, f.Method, f.Host, f.Path, text)
		}
		_ = table.Flush()
	}
	if len(report.Lines) == 0 {
		return
	}
	say("\nThese lines in metrics_gate would gate what passes:\n")
	for _, line := range report.Lines {
		say("\t%s", strings.ReplaceAll(line, "\n", "\n\t"))
	}
	if !configured {
		say(`
There is no gate yet. Begin with metrics_gate shadow, which blocks nothing and counts
what it would block. Besides these lines it has to know who asks and what they prefer:
write session and profile as well, as docs/applications.md shows.`)
	}
}

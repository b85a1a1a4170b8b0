package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/metricsgate/metricsgate/internal/testcaddy"
)

// withBlock puts text in the place of each block of a Caddyfile that such a line
// begins.
func withBlock(caddyfile, begins, text string) string {
	var filled strings.Builder
	within := "" // the line that ends the block
	for line := range strings.Lines(caddyfile) {
		trimmed := strings.TrimLeft(line, "\t")
		switch {
		case within != "":
			if line == within {
				within = ""
			}
		case strings.HasPrefix(trimmed, begins+" "):
			within = strings.TrimSuffix(line, trimmed) + "}\n"
			filled.WriteString(text + "\n")
		default:
			filled.WriteString(line)
		}
	}
	return filled.String()
}

// documentedSite is the n-th Caddyfile below a heading of docs/applications.md,
// for an address and in front of an application of a test.
func documentedSite(t *testing.T, heading string, n int, addr, application string, profile *profile) string {
	t.Helper()
	_, section, found := strings.Cut(string(testcaddy.Must(os.ReadFile("../docs/applications.md"))), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	fences := strings.Split(section, "```caddyfile\n")
	if !found || len(fences) <= n {
		t.Fatalf("docs/applications.md has no %d Caddyfiles below %q", n, heading)
	}
	site, _, _ := strings.Cut(fences[n], "```")
	site = withBlock(withBlock(site, "session", testcaddy.SessionJWT()), "profile", profile.block(patient, "not_found null"))
	_, port, _ := strings.Cut(addr, ":")
	return strings.NewReplacer("app.example.org {", "http://:"+port+" {\nbind 127.0.0.1", "http://localhost:8080 {", "http://:"+port+" {\nbind 127.0.0.1", "reverse_proxy app:3000", testcaddy.ProxyTo(application)).Replace(site)
}

// The smallest gate of docs/applications.md does what is said of it.
func TestSmallestGate(t *testing.T) {
	t.Parallel()
	behind, addr := newContentServer(t), testcaddy.FreeAddr(t)
	caddy := testcaddy.Start(t, documentedSite(t, "The smallest gate", 1, addr, behind.addr(), newProfile(t)))
	for header, want := range map[string]string{
		"X-Nothing: 1":         "from the application",
		"Sec-GPC: 1":           `{"status":1}`,
		"DNT: 1":               `{"status":1}`,
		"Metrics-Optout: true": `{"status":1}`,
	} {
		if a := send(t, behind, addr, "POST /e", `{"distinct_id":"ann"}`, header); a.status != 200 || a.body != want {
			t.Errorf("%s: %d %q, want %q", header, a.status, a.body, want)
		}
	}
	caddy.Logged(`"level":"warn"`, "there is no profile", "metrics_gate › preset posthog")
}

// TestOnYourMachine goes the way that docs/applications.md shows, command by
// command, with ports that nobody else uses.
func TestOnYourMachine(t *testing.T) {
	t.Parallel()
	testcaddy.Installed(t, "openssl")
	behind := newContentServer(t)
	s := testcaddy.New(t)
	gate := testcaddy.FreeAddr(t)
	_, section, found := strings.Cut(string(testcaddy.Must(os.ReadFile("../docs/applications.md"))), "\n## All of it on your machine\n")
	section, _, _ = strings.Cut(section, "\n## ")
	own := strings.NewReplacer("localhost:8080", gate, "localhost:8090", testcaddy.FreeAddr(t), "localhost:3000", behind.addr(),
		"metrics-gate check ", "metrics-gate check --address "+s.Admin+" ", "metrics-gate trace ", "metrics-gate trace --address "+s.Admin+" ")
	var config string
	var commands []string
	for i, fenced := range strings.Split(section, "\n```") {
		language, text, _ := strings.Cut(fenced, "\n")
		switch {
		case i%2 == 0: // what stands between
		case language == "caddyfile":
			config = text + "\n"
		case language == "sh":
			commands = append(commands, own.Replace(text))
		}
	}
	if !found || config == "" || len(commands) != 3 {
		t.Fatalf("docs/applications.md has no Caddyfile, or not three lists of commands: %q", commands)
	}
	typed := func(text string) string {
		shell := exec.CommandContext(t.Context(), "sh", "-ec", text)
		shell.Dir, shell.Env = s.Dir, append(testcaddy.Environment(s.Dir), "PATH="+s.Dir+":"+os.Getenv("PATH"))
		out, err := shell.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, text, out)
		}
		return string(out)
	}
	if err := os.Symlink(testcaddy.Binary, filepath.Join(s.Dir, "caddy")); err != nil {
		t.Fatal(err)
	}
	typed(commands[0])
	if err := os.WriteFile(filepath.Join(s.Dir, "Caddyfile"), []byte("{\n\tadmin "+s.Admin+"\n}\n"+own.Replace(config)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Run(exec.Command("./caddy", "run"))
	if out := typed(commands[1]); !strings.HasSuffix(strings.TrimSpace(out), "\nPASS") {
		t.Errorf("check says\n%s", out)
	}
	if out := typed(commands[2]); !strings.Contains(out, "opted out (true)") || !strings.Contains(out, "block, because of preference") {
		t.Errorf("trace says\n%s", out)
	}
}

// What banners write, in the words that they were seen to use, is read by the
// lines of docs/applications.md.
func TestConsentBanners(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	objects, agrees := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	testcaddy.Start(t,
		documentedSite(t, "Consent banners", 1, objects, behind.addr(), profile),
		documentedSite(t, "Consent banners", 2, agrees, behind.addr(), profile))
	const (
		oneTrust  = "OptanonConsent=isGpcEnabled=0&datestamp=Fri+Nov+27+2026+10%3A58%3A35+GMT%2B0100&version=202405.1.0&isIABGlobal=false&hosts=&landingPath=NotLandingPage&groups="
		awaiting  = "&AwaitingReconsent=false&geolocation=DE%3BBE"
		cookiebot = "CookieConsent={stamp:%27AAAAAAAAAAAAAAAAAAAAAAAA==%27%2Cnecessary:true%2Cpreferences:true%2Cstatistics:"
		cookieYes = "cookieyes-consent=consentid:QUFBQUFBQUFBQUFBQUFBQUFB,consent:yes,action:yes,necessary:yes,functional:yes,analytics:"
	)
	for _, c := range []struct {
		name, cookie  string
		object, agree string // what becomes of a beacon where a no is looked for, and where a yes is
	}{
		{"none", "other=1", "collect", "block"},
		{"OneTrust, no", oneTrust + "C0001%3A1%2CC0002%3A0%2CC0003%3A1" + awaiting, "block", "block"},
		{"OneTrust, no, in another order", oneTrust + "C0001%3A1%2CC0003%3A1%2CC0002%3A0" + awaiting, "block", "block"},
		{"OneTrust, no, not escaped", oneTrust + "C0001:1,C0002:0,C0003:1" + awaiting, "block", "block"},
		{"OneTrust, yes", oneTrust + "C0001%3A1%2CC0002%3A1%2CC0003%3A0" + awaiting, "collect", "collect"},
		{"OneTrust, yes, not escaped", oneTrust + "C0001:1,C0002:1,C0003:0" + awaiting, "collect", "collect"},
		{"OneTrust, yes, behind another cookie", "a=b; " + oneTrust + "C0001%3A1%2CC0002%3A1" + awaiting, "collect", "collect"},
		{"another cookie that says OneTrust's yes", "x=C0002:1; " + oneTrust + "C0001%3A1" + awaiting + "; y=C0002:1", "collect", "block"},
		{"Cookiebot, no", cookiebot + "false%2Cmarketing:true%2Cmethod:%27explicit%27%2Cver:1%2Cutc:1740711677287%2Cregion:%27de%27}", "block", "block"},
		{"Cookiebot, yes", cookiebot + "true%2Cmarketing:false%2Cmethod:%27explicit%27%2Cver:1%2Cutc:1740711677287%2Cregion:%27de%27}", "collect", "block"},
		{"Cookiebot, old no", "CookieConsent=0", "block", "block"},
		{"Cookiebot, need not be asked", "CookieConsent=-1", "collect", "block"},
		{"CookieYes, no", cookieYes + "no,performance:yes,advertisement:yes,other:yes", "block", "block"},
		{"CookieYes, yes", cookieYes + "yes,performance:no,advertisement:no,other:no", "collect", "block"},
		{"Complianz, no", "cmplz_marketing=allow; cmplz_statistics=deny", "block", "block"},
		{"Complianz, yes", "cmplz_marketing=deny; cmplz_statistics=allow", "collect", "block"},
		{"GOV.UK, no", "cookies_policy=%7B%22essential%22%3Atrue%2C%22settings%22%3Atrue%2C%22usage%22%3Afalse%7D", "block", "block"},
		{"GOV.UK, yes", "cookies_policy=%7B%22essential%22%3Atrue%2C%22settings%22%3Afalse%2C%22usage%22%3Atrue%7D", "collect", "block"},
	} {
		for _, forged := range [][]string{nil, {"No-Consent: 0"}} {
			headers := append([]string{"Cookie: " + c.cookie}, forged...)
			if got := send(t, behind, objects, "POST /api/beacon", "{}", headers...).decision(); got != c.object {
				t.Errorf("%s, where a no is looked for: %s, want %s", c.name, got, c.object)
			}
			if got := send(t, behind, agrees, "POST /api/beacon", "{}", headers...).decision(); got != c.agree {
				t.Errorf("%s with %q, where a yes is looked for: %s, want %s", c.name, forged, got, c.agree)
			}
		}
	}
}

// Pages of those who opted out have a second policy, beside the application's
// own; those of others have that alone.
func TestPolicyForBeaconsToOtherHosts(t *testing.T) {
	t.Parallel()
	behind, profile := newContentServer(t), newProfile(t)
	addr, own := testcaddy.FreeAddr(t), testcaddy.FreeAddr(t)
	testcaddy.Start(t,
		documentedSite(t, "Beacons to other hosts", 1, addr, own, profile),
		testcaddy.Site(own, "header Content-Security-Policy \"default-src 'self'\"", "header Cache-Control max-age=60", testcaddy.ProxyTo(behind.addr())))
	out, in := testcaddy.Cookie(testcaddy.Session(profile.account(optOut))), testcaddy.Cookie(testcaddy.Session(profile.account(allow)))
	for _, token := range []string{out, in} {
		_ = send(t, behind, addr, "POST /api/beacon", "{}", token) // a page uses what is known
	}
	applications := []string{"default-src 'self'"}
	strict := append(slices.Clone(applications), "connect-src 'self' https://api.example.org; img-src 'self' data:")
	for name, c := range map[string]struct {
		header string
		want   []string
	}{
		"opted out":              {out, strict},
		"allowed":                {in, applications},
		"nobody":                 {"X-Nothing: 1", applications},
		"nobody, GPC":            {"Sec-GPC: 1", strict},
		"a first page, a choice": {testcaddy.Cookie(testcaddy.Session(profile.account(allow))), strict},
	} {
		a := send(t, behind, addr, "GET /signin", "", c.header, "Accept: text/html")
		got := slices.Sorted(slices.Values(a.header["Content-Security-Policy"]))
		if !slices.Equal(got, slices.Sorted(slices.Values(c.want))) {
			t.Errorf("%s: the page has the policies %q, want %q", name, got, c.want)
		}
		if kept := a.header.Get("Cache-Control"); (kept == "private, no-cache") != (len(c.want) > 1) {
			t.Errorf("%s: Cache-Control is %q", name, kept)
		}
	}
}

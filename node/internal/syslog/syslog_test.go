package syslog

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"offshoot/node/status"
	"offshoot/swarm"
)

const (
	mac1  = swarm.MAC("52:54:00:00:00:01")
	mac2  = swarm.MAC("52:54:00:00:00:02")
	nonce = "Zk3vQ9-wX_1pLm8sTt0uYa"
)

var epoch = time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)

func TestEveryFormOfInstallersIsUnderstood(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		packet string
		want   message
	}{
		"busybox syslogd of d-i, no host":  {"<6>Nov 21 03:00:00 main-menu[312]: INFO: Menu item 'pkgsel' selected", message{6, "main-menu", "INFO: Menu item 'pkgsel' selected"}},
		"day of one digit":                 {"<14>Nov  1 03:00:00 debootstrap: unpacking", message{6, "debootstrap", "unpacking"}},
		"rsyslog of Anaconda, with a host": {"<13>Nov 21 03:00:00 localhost anaconda[1804]: Installing 412 packages", message{5, "anaconda", "Installing 412 packages"}},
		"rsyslog, RFC 3339 time":           {"<134>2026-11-21T03:00:00.123456+00:00 ubuntu-server subiquity_event.1804: start: install", message{6, "subiquity_event.1804", "start: install"}},
		"logger, RFC 5424":                 {`<13>1 2026-11-21T03:00:00.5+00:00 m1 root - - [timeQuality tzKnown="1" isSynced="0"] hello`, message{5, "root", "hello"}},
		"RFC 5424, no data":                {"<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time", message{5, "myproc", "%% It's time"}},
		"RFC 5424, escapes and a mark":     {"<3>1 - - app 1 ID47 [a@1 x=\"]\\\"]\"][b@1] \xef\xbb\xbfwords", message{3, "app", "words"}},
		"RFC 5424, nothing said":           {"<34>1 - - - - - -", message{2, "", ""}},
		"RFC 5424, broken data":            {`<34>1 - - su - - [a x="`, message{2, "", `1 - - su - - [a x="`}},
		"no tag":                           {"<13>Nov 21 03:00:00 m1 just words", message{5, "", "just words"}},
		"neither host nor tag":             {"<13>Nov 21 03:00:00 word", message{5, "", "word"}},
		"no time":                          {"<11>kernel: panic", message{3, "kernel", "panic"}},
		"no priority":                      {"kernel: oops", message{5, "kernel", "oops"}},
		"priority too large":               {"<192>x", message{5, "", "<192>x"}},
		"an address is no tag":             {"<13>http://192.168.42.1:7480/x is gone", message{5, "", "http://192.168.42.1:7480/x is gone"}},
		"nothing":                          {"", message{5, "", ""}},
		"what commands terminals":          {"<13>a: \x1b[2Jb\r\nc\td\x00", message{5, "a", "?[2Jb  c d"}},
		"what turns text around":           {"<13>a: b\u202ec", message{5, "a", "b?c"}},
		"no UTF-8":                         {"<13>a: \xff\xfeb", message{5, "a", "??b"}},
	} {
		if got := decode([]byte(c.packet), ""); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
	if got := decode([]byte("<13>"+strings.Repeat("p", 60)+": "+strings.Repeat("ä", 2000)), ""); len(got.text) > maxText || len(got.program) > maxProgram || !utf8.ValidString(got.text) {
		t.Errorf("kept %d bytes of %d", len(got.text), len(got.program))
	}
}

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	const ticket = "os1.0123456789abcdef.AbCdEfGhIjKlMnOpQrStUv"
	for _, c := range []struct{ line, want string }{
		{"wget http://192.168.42.1:7480/b/" + nonce + "/install", "wget http://192.168.42.1:7480/b/Zk3v.../install"},
		{"url=http%3A%2F%2F192.168.42.1%2Fb%2FAAAAbbbbCCCCddddEEEEff%2Fpreseed", "url=http%3A%2F%2F192.168.42.1%2Fb%2FAAAA...%2Fpreseed"},
		{"the nonce " + nonce + " alone", "the nonce Zk3v... alone"},
		{`{"ticket":"` + ticket + `"}`, `{"ticket":"os1.0123456789abcdef...."}`},
		{"cut off: " + ticket[:30], "cut off: os1.0123456789abcdef...."},
		{"of no form: os1.foo-bar", "of no form: os1...."},
		{"rootpw --iscrypted $6$salt$hash/with.dots end", "rootpw --iscrypted $6$... end"},
		{"proxy http://ann:secret@192.0.2.1:3128/", "proxy http://...@192.0.2.1:3128/"},
		{"reading /lib/b/short and /dev/sdb/x", "reading /lib/b/short and /dev/sdb/x"},
	} {
		got := mask(c.line, nonce)
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.line, got, c.want)
		}
		if again := mask(got, nonce); again != got {
			t.Errorf("%q: masked twice it is %q", got, again)
		}
	}
	// Not only in the text.
	if m := decode([]byte("<13>"+nonce+": x"), nonce); strings.Contains(m.program+m.text, nonce) {
		t.Errorf("got %+v", m)
	}
	// What is cut off was masked before.
	if m := decode([]byte(strings.Repeat("x", maxText-20)+" "+ticket), ""); strings.Contains(m.text, "AbCd") {
		t.Errorf("got %q", m.text)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"<6>Nov 21 03:00:00 main-menu[312]: INFO: Menu item 'pkgsel' selected", `<13>1 2026-11-21T03:00:00.5+00:00 m1 root - - [t a="\"]"] hello`,
		"<134>2026-11-21T03:00:00.123456+00:00 host tag: x", "<", "<13>1 ", "\xef\xbb\xbf", "/b/" + nonce, "os1.0123456789abcdef.x", "://a@", "$6$a",
	} {
		f.Add([]byte(seed), nonce)
	}
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`)
	f.Fuzz(func(t *testing.T, packet []byte, nonce string) {
		m := decode(packet, nonce)
		if m.severity < 0 || m.severity >= len(severities) || len(m.text) > maxText || len(m.program) > maxProgram {
			t.Errorf("%q becomes %+v", packet, m)
		}
		for _, r := range m.program + m.text {
			if !unicode.IsPrint(r) && r != ' ' && r != utf8.RuneError {
				t.Errorf("%q: %q is not printable", packet, r)
			}
		}
		if form.MatchString(nonce) && strings.Contains(m.program+m.text, nonce) {
			t.Errorf("%q: the nonce is in %q", packet, m.text)
		}
	})
}

// hear gives a book plain lines, one a second.
func hear(b *Book, mac swarm.MAC, lines ...string) {
	for i, l := range lines {
		b.Hear(epoch.Add(time.Duration(i)*time.Second), mac, "", []byte(l))
	}
}

func TestBookKeepsTheLastLinesWithinItsBounds(t *testing.T) {
	t.Parallel()
	b := NewBook()
	var many, long []string
	for i := range 3 * linesPerMachine {
		many = append(many, fmt.Sprintf("<13>a: line %d", i))
		long = append(long, strings.Repeat("x", maxText))
	}
	hear(b, mac1, many...)
	hear(b, mac2, long...)
	got := b.Of(mac1)
	if len(got) != linesPerMachine || got[0].Text != "line 400" || got[linesPerMachine-1].Text != "line 599" || got[0].Program != "a" || got[0].Severity != "notice" {
		t.Errorf("%d lines, from %+v to %+v", len(got), got[0], got[len(got)-1])
	}
	for i := 1; i < len(got); i++ {
		if got[i].Seq <= got[i-1].Seq {
			t.Errorf("line %d has number %d after %d", i, got[i].Seq, got[i-1].Seq)
		}
	}
	bytes := 0
	for _, l := range b.Of(mac2) {
		bytes += len(l.Text)
	}
	if bytes > bytesPerMachine || bytes < bytesPerMachine-maxText {
		t.Errorf("%d bytes are kept", bytes)
	}
	for i := range bookMachines - 1 {
		hear(b, swarm.MAC(fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256)), "x")
	}
	if len(b.Of(mac1)) != 0 || len(b.Of(mac2)) == 0 || len(b.pages) != bookMachines || b.order.Len() != bookMachines {
		t.Errorf("%d pages; the machine that was silent the longest must have gone, and only that", len(b.pages))
	}
}

func TestMachineThatSaysTooMuchLosesLinesAndSaysSo(t *testing.T) {
	t.Parallel()
	b := NewBook()
	took := 0
	for range wholeBurst + 70 { // as much as all may say: it must not be used up by one
		if _, ok := b.Hear(epoch, mac1, "", []byte("x")); ok {
			took++
		}
	}
	if _, ok := b.Hear(epoch, mac2, "", []byte("x")); took != machineBurst || !ok {
		t.Errorf("%d lines at once, want %d; another machine is heard: %v", took, machineBurst, ok)
	}
	if line, ok := b.Hear(epoch.Add(time.Second), mac1, "", []byte("later")); !ok || line.Text != "later" {
		t.Errorf("a second later: %+v, %v", line, ok)
	}
	got := b.Of(mac1)
	if mark := got[len(got)-2]; !strings.Contains(mark.Text, fmt.Sprint(wholeBurst+70-machineBurst, " lines were dropped")) || mark.Program != "offshoot" || got[len(got)-1].Text != "later" {
		t.Errorf("got %+v", got[len(got)-2:])
	}
}

func TestAllMachinesTogetherAreBounded(t *testing.T) {
	t.Parallel()
	b := NewBook()
	took := 0
	for i := range 50 {
		for range machineBurst {
			if _, ok := b.Hear(epoch, swarm.MAC(fmt.Sprintf("02:00:00:00:00:%02x", i)), "", []byte("x")); ok {
				took++
			}
		}
	}
	if took != wholeBurst {
		t.Errorf("%d lines at once, want %d", took, wholeBurst)
	}
}

func TestLinesOfInstallersTellTheirStage(t *testing.T) {
	t.Parallel()
	step := 0
	for _, c := range []struct{ program, text, want string }{
		{"main-menu", "INFO: Menu item 'netcfg' selected", ""},
		{"main-menu", "INFO: Menu item 'partman-base' selected", "partitioning"},
		{"main-menu", "INFO: Menu item 'bootstrap-base' selected", "base system"},
		{"main-menu", "INFO: Menu item 'pkgsel' selected", "packages"},
		{"main-menu", "INFO: Menu item 'grub-installer' selected", "boot loader"},
		{"main-menu", "INFO: Menu item 'finish-install' selected", "finishing"},
	} {
		got, ok := StageOf(status.LogLine{Program: c.program, Text: c.text})
		if got.Name != c.want || ok != (c.want != "") || ok && got.Step <= step {
			t.Errorf("%s: got %+v, %v after step %d", c.text, got, ok, step)
		}
		step = max(step, got.Step)
	}
	step = 0
	for _, c := range []struct{ text, want string }{
		{"Setting up the installation environment", "preparing"}, {"Installing 412 packages", "packages"}, {"Performing post-installation setup tasks", "finishing"},
		{"Installing boot loader", ""}, {"412 packages Installing", ""},
	} {
		got, ok := StageOf(status.LogLine{Program: "org.fedoraproject.Anaconda", Text: c.text})
		if got.Name != c.want || ok != (c.want != "") || ok && got.Step <= step {
			t.Errorf("%s: got %+v, %v after step %d", c.text, got, ok, step)
		}
		step = max(step, got.Step)
	}
	if s, ok := StageOf(status.LogLine{Program: "sh", Text: "Menu item 'pkgsel' selected"}); ok {
		t.Errorf("somebody else's words: %+v", s)
	}
}

func TestServerReceivesUntilItIsStopped(t *testing.T) {
	t.Parallel()
	type packet struct {
		from netip.Addr
		text string
	}
	heard := make(chan packet, 1)
	s := New(Options{Addr: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Heard: func(from netip.Addr, p []byte) { heard <- packet{from, string(p)} }})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	conn, err := net.Dial("udp4", s.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, text := range []string{"one", "two"} {
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; got != (packet{netip.MustParseAddr("127.0.0.1"), text}) {
			t.Errorf("got %+v", got)
		}
	}
	taken := New(Options{Addr: s.LocalAddr().String(), Log: slog.New(slog.DiscardHandler)})
	if err := taken.Run(ctx); err == nil || !strings.Contains(err.Error(), "syslog daemon") {
		t.Errorf("a taken port: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// The example mdns against avahi-daemon, the responder of most Linux machines. Every daemon has a host of its own, and
// a mount namespace in which it finds its files, so that those of the machine are not touched.

package interop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-multicast/mcast/mcasttest"
)

// avahiService is what mdns prints of a service.
type avahiService struct {
	Interface, Instance, Type, Host string
	Port                            uint16
	Addresses                       []netip.Addr
	TXT                             []string
}

func TestAvahi(t *testing.T) {
	need(t, "avahi-daemon")
	mdns := filepath.Join(t.TempDir(), "mdns")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", mdns, "./cmd/mdns")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}

	lan := mcasttest.NewLAN(t, 3)
	here, first, second := lan.Hosts[0], lan.Hosts[1], lan.Hosts[2]
	lighthouse := avahiStart(t, first, "lighthouse", `
		<name>Küche v1.2</name>
		<service><type>_http._tcp</type><port>8080</port>
			<txt-record>path=/a b</txt-record><txt-record>grüße=ja</txt-record></service>
		<service><type>_ipp._tcp</type><port>631</port></service>`)
	avahiStart(t, second, "buoy", `
		<name>Buoy</name>
		<service><type>_http._tcp</type><port>80</port></service>`)

	own, other := []netip.Addr{first.IPv4, first.IPv6}, []netip.Addr{second.IPv4, second.IPv6}
	want := []avahiService{
		{"eth0", "Buoy", "_http._tcp", "buoy.local", 80, other, []string{}},
		{"eth0", `Küche v1\.2`, "_http._tcp", "lighthouse.local", 8080, own, []string{"path=/a b", "grüße=ja"}},
		{"eth0", `Küche v1\.2`, "_ipp._tcp", "lighthouse.local", 631, own, []string{}},
	}
	// From the machine of a daemon, too, with which the port is shared.
	for _, host := range []*mcasttest.Host{here, first} {
		avahiUntil(t, host, mdns, func(found []avahiService) bool { return reflect.DeepEqual(found, want) })
		avahiUntil(t, host, mdns, func(found []avahiService) bool { return reflect.DeepEqual(found, want[2:]) }, "-service", "_ipp._tcp")
	}

	// It says goodbye when it ends. What the other one has is found as before.
	if err := lighthouse.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	lighthouse.wait()
	avahiUntil(t, here, mdns, func(found []avahiService) bool {
		if slices.ContainsFunc(found, func(s avahiService) bool { return s.Instance != "Buoy" }) {
			t.Fatalf("after the goodbye: %+v", found)
		}
		return reflect.DeepEqual(found, want[:1])
	})
}

// avahiStart runs a daemon on a host, with a group of services.
func avahiStart(t *testing.T, host *mcasttest.Host, name, services string) *program {
	t.Helper()
	etc := t.TempDir()
	for file, content := range map[string]string{
		"avahi-daemon.conf": "[server]\nhost-name=" + name + "\nallow-interfaces=eth0\nenable-dbus=no\n",
		"services/test.service": `<?xml version="1.0"?><!DOCTYPE service-group SYSTEM "avahi-service.dtd">` +
			"<service-group>" + services + "</service-group>",
		// Its directory in /run has to belong to its user, and an ordinary user has no other than root in here.
		"passwd": "avahi:x:0:0::/:/bin/false\n",
		"group":  "avahi:x:0:\n",
	} {
		path := filepath.Join(etc, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	const script = `mount -t tmpfs none /run
		mount --bind "$1" /etc/avahi
		mount --bind "$1/passwd" /etc/passwd
		mount --bind "$1/group" /etc/group
		exec avahi-daemon --no-drop-root --no-chroot --no-rlimits --no-proc-title`
	return start(t, host, exec.Command("unshare", "--mount", "--", "sh", "-ec", script, "sh", etc))
}

// avahiUntil browses on a host, for a while each time, until what is found is as wanted.
func avahiUntil(t *testing.T, host *mcasttest.Host, mdns string, wanted func([]avahiService) bool, args ...string) {
	t.Helper()
	args = append([]string{"-json", "-timeout", "2s"}, args...)
	for end := time.Now().Add(patience); ; {
		var said, complained bytes.Buffer
		cmd := exec.Command(mdns, args...)
		cmd.Stdout, cmd.Stderr = &said, &complained
		if err := host.Start(cmd); err != nil {
			t.Fatal(err)
		}
		err := cmd.Wait()
		var found []avahiService
		if e := json.Unmarshal(said.Bytes(), &found); e != nil || (err == nil) != (len(found) > 0) {
			t.Fatalf("%s: %v, %v: %s%s", strings.Join(cmd.Args, " "), err, e, &said, &complained)
		}
		if wanted(found) {
			return
		}
		if text := fmt.Sprintf("%s on %s finds %+v", strings.Join(cmd.Args, " "), host.Name, found); time.Now().After(end) {
			t.Fatal(text)
		} else {
			t.Log(text)
		}
	}
}

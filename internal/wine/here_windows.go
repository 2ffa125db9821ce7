package wine

import "golang.org/x/sys/windows"

// Here reports whether Wine, and not Windows, runs this process.
func Here() bool {
	return windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil
}

//go:build !linux

// What is compared here is Linux's: epoll, recvmmsg, segmentation offload, and network namespaces to do it in.

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: this program measures on Linux only")
	os.Exit(1)
}

module github.com/go-multicast/mcast/internal/interop

go 1.26.0

replace github.com/go-multicast/mcast => ../..

require (
	github.com/go-multicast/mcast v0.0.0
	golang.org/x/sys v0.49.0
)

require golang.org/x/net v0.62.0 // indirect

module github.com/go-multicast/mcast/internal/interop

go 1.26.0

require github.com/go-multicast/mcast v0.0.0

require golang.org/x/sys v0.49.0 // indirect

replace github.com/go-multicast/mcast => ../..

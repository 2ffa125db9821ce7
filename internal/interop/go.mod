module github.com/go-multicast/mcast/internal/interop

go 1.26.0

replace github.com/go-multicast/mcast => ../..

require (
	github.com/go-multicast/mcast v0.0.0
	github.com/miekg/dns v1.1.73
	github.com/plgd-dev/go-coap/v3 v3.4.1
	golang.org/x/sys v0.49.0
)

require (
	github.com/dsnet/golib/memfile v1.0.0 // indirect
	github.com/pion/dtls/v3 v3.0.7 // indirect
	github.com/pion/logging v0.2.4 // indirect
	github.com/pion/transport/v3 v3.0.7 // indirect
	go.uber.org/atomic v1.11.0 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/exp v0.0.0-20240904232852-e7e105dedf7e // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sync v0.22.0 // indirect
)

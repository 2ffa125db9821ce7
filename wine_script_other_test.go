//go:build !windows

package mcast

func underWine() bool { return false }

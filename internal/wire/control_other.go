//go:build !linux && !darwin && !windows

package wire

var controlHere = controlFormat{word: wordSize}

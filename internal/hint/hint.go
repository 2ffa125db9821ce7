// Package hint has the texts that package mcast and its doctor share: commands and advice against a cause that both
// report. Texts that only one of them uses are there.
package hint

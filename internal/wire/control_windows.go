package wire

var controlHere = controlWindows

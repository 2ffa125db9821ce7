package wire

var controlHere = controlDarwin

"""Having the operating system run `fimble serve` at login: a file for it, and the commands that turn it on."""

"""Settings that point editors at a server of ours, as data: what the command line prints, writes and the page shows."""

"""replay reads the log of eventflow: history, time travel, audit."""

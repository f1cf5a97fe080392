"""The commands: flags in, exit codes out; the work is done beside them, and imported when it is needed."""

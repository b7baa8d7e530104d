"""The commands of `textinv edit`, one file per command, and what they share."""

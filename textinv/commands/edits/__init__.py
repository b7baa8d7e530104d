"""The commands of `textinv edit`, one file each, and what they share."""

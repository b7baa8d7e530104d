"""One run: setup, folder, resuming, evaluation loss and stopping, multiple processes."""

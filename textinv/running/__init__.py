"""One run: set-up, folder, resume, evaluation loss and stopping, several processes."""

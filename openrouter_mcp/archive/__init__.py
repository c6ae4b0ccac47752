"""Where answers and batches are kept: a file on this machine, or a server for many."""

"""What runs of all kinds of data share: the command, folders, training, scores and results."""

"""The real datasets: where their rows come from, how they are kept on disk, which pictures they share. See `mmpeft.tasks`."""

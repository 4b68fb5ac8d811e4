"""Parts of the held-out report: scores of a volume, lesions, groups, summaries, targets, and the methods compared."""

"""Right of the records: what the pages say and show, from records alone; without torch."""

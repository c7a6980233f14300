"""Papers whose figures `selftune reproduce` makes."""

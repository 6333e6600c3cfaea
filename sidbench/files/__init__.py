"""A person's own files: which column is what, tables and vectors of any kind, and what was understood."""

"""The built-in references; one file each."""

"""The built-in loggers; one file each."""

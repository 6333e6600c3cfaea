"""The built-in resolvers: one file each."""

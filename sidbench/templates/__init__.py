"""Files that `sidbench new` writes: real, working plugins."""

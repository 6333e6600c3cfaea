"""Catalogues of any size: a tokenizer fitted to a folder, SIDs for millions of rows, resumable."""

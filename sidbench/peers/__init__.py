"""What datasets in other systems' layouts share: cells, atomic files, item texts, published rows."""

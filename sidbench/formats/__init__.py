"""Files of SIDs as other systems write and read them. A format is one file here, found by its class."""

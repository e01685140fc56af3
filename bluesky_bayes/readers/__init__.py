"""Files of other programs, read as data sets: one module for each kind of measurement."""

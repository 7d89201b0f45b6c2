"""Data sets, one module each: files, classes and statistics."""

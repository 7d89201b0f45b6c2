"""Untrusted folders and archives: location, reading without unpacking, bounds on decoding."""

"""File formats of samples, one module each: bytes in, images and labels out."""

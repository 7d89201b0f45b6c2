"""Several processes: sums over them, batch norm over all images, and sharing of parameters."""

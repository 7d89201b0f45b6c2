"""A task: one folder. The targets are the mean brightness of images, the output is one number."""

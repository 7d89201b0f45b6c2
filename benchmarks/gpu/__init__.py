"""What is measured on a GPU, and what its machine code says where there is none."""

"""What is measured, without files and without other processes."""

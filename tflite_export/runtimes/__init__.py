"""What executes a file, each in a process of its own."""

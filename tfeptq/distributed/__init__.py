"""Worker processes, here or on other machines, by Ray; imported only where they are asked for."""

"""What a suite file says: its schema, what is wrong with one, and the cells it means."""

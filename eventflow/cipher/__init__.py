"""Keys and what is done with them. One folder, the only one that imports cryptography, and only where it is needed."""
